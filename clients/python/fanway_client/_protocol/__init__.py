"""Copied from `protocol/` of the gateway by vendor.py: change it there."""
