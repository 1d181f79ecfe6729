"""Brokers: what orders and stores messages and carries them between nodes."""
