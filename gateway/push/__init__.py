"""The internal HTTP API: how backends push, and look at who is connected (docs/push-api.md)."""

from gateway.push.app import create_app
from gateway.push.context import PushContext
from gateway.push.push_keys import PushKeys

__all__ = ["PushContext", "PushKeys", "create_app"]
