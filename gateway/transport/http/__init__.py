"""Pieces of HTTP that every listener and transport shares."""
