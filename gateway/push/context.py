"""What the push API needs: the broker, the rules of channels, the keys, and its own limits."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from gateway import defaults
from gateway.access.permissions import Namespaces
from gateway.broker.base import Broker
from gateway.memory import MemoryBudget, NodeMemory
from gateway.push.push_keys import PushKeys
from gateway.push.request_limits import RequestLimits
from gateway.tasks import Tasks
from protocol import limits


@dataclass(frozen=True, slots=True)
class PushContext:
    """Dependencies and limits that all routes of one node's push API share."""

    broker: Broker
    namespaces: Namespaces
    keys: PushKeys
    tasks: Tasks
    """Owner of the publishes that wait for the broker; closed by its creator."""
    wait_for_capacity: Callable[[str], Coroutine[Any, Any, None]] | None = None
    """Returns once the subscribers of a channel accept more: awaited after each publish there, before its
    answer."""
    loopback_hosts_only: bool = False
    """Whether requests to another host than loopback are rejected, as in dev mode: 421."""
    body_size: int = defaults.BODY_SIZE_BYTES
    """Bytes in a request's body; 413 beyond."""
    bodies: MemoryBudget = field(default_factory=lambda: NodeMemory().bodies)
    """The bytes in the bodies of all requests that are not answered yet; 503 beyond."""
    message_size: int = limits.MESSAGE_SIZE
    """Bytes in the `data` of one message, as JSON; 413 beyond."""
    history_limit: int = limits.HISTORY_LIMIT
    """Messages in one answer."""
    presence_limit: int = defaults.PRESENCE_REPLY
    """Members in one answer: they have `body_size` bytes at most, but one member is always returned."""
    limits: RequestLimits = field(default_factory=RequestLimits)
    """How much may be asked for at once; 429 beyond."""
    on_key_refused: Callable[[str], None] = lambda _: None
    """Called with the address of a client whose request has no valid key."""
    on_host_refused: Callable[[str, str], None] = lambda *_: None
    """Called with the Host header and the client's address of a request to another host than loopback."""
