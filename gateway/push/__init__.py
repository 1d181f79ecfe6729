"""The internal HTTP API: how backends push, and look at who is connected (PROTOCOL section 5)."""

from gateway.push.app import create
from gateway.push.keys import Keys
from gateway.push.service import Service

__all__ = ["Keys", "Service", "create"]
