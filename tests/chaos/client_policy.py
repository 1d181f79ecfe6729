"""When a client of the chaos tests reconnects, and when it gives up a connection that does not answer.

What a client does after each close code, error and push is decided by `protocol.client`.
"""

from dataclasses import dataclass

from protocol.client import DEFAULT_BACKOFF, BackoffBounds
from tests.e2e.clients import TIMEOUT_SECONDS


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """The delays and timeouts of one client, in seconds."""

    backoff: BackoffBounds = DEFAULT_BACKOFF
    """The bounds of the delays before it reconnects."""
    idle_seconds: float | None = None
    """How long it receives nothing before it sends a `ping`; None: the `heartbeat` of `connected`."""
    reply_seconds: float = TIMEOUT_SECONDS
    """How long a handshake or a reply may take before the client drops the connection."""


DEFAULT = ClientPolicy()

FAST_RECONNECT = ClientPolicy(BackoffBounds(first_seconds=0.02, longest_seconds=0.6))
"""Waits for a silent node; only the delays of the protocol are shortened, which a test has no time for."""


class ClientStopped(Exception):
    """The gateway sent what makes a client stop, or what it must not send whatever fault is injected."""
