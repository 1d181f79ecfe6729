"""Attackers beside a bystander who must not notice them."""
