"""What the internal API stands on: the broker, the rules of channels, and its own bounds."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from gateway import defaults
from gateway.access.permissions import Namespaces
from gateway.broker.base import Broker
from gateway.push.keys import Keys
from gateway.tasks import Tasks
from protocol import limits


@dataclass(frozen=True, slots=True)
class Service:
    """One node's internal API, before it has any route."""

    broker: Broker
    namespaces: Namespaces
    keys: Keys
    tasks: Tasks
    """Owner of the publishes that wait for the broker; whoever made it closes it."""
    pace: Callable[[], Coroutine[Any, Any, None]] | None = None
    """Returns once the node's clients can take more: awaited after each publish, before its answer."""
    body_size: int = defaults.BODY_SIZE_BYTES
    """Bytes in a request's body; 413 beyond."""
    message_size: int = limits.MESSAGE_SIZE
    """Bytes in the `data` of one message, as JSON; 413 beyond."""
    history_limit: int = limits.HISTORY_LIMIT
    """Messages in one answer."""
    presence_limit: int = defaults.PRESENCE_REPLY
    """Members in one answer; they take `body_size` bytes at most, and are at least one."""
