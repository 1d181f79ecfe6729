"""Fanway, a real-time WebSocket gateway: one node alone, or many on Redis."""

__version__ = "0.1.0"
