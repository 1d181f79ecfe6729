"""How many calls of a broker wait for Redis, and how many bytes they have, over all its connections."""

from __future__ import annotations

from gateway.broker.redis.options import PENDING_MAX_BYTES, PENDING_MAX_CALLS
from gateway.errors import BrokerUnavailable


class PendingCalls:
    """The calls of all connections of a broker that have no answer yet.

    One connection may have half of what all may have: a server that hangs must not take the room of the
    calls to the others.
    """

    __slots__ = ("bytes", "calls", "max_bytes", "max_calls", "rejected")

    def __init__(self, max_calls: int = PENDING_MAX_CALLS, max_bytes: int = PENDING_MAX_BYTES) -> None:
        """Allow *max_calls* calls with *max_bytes* bytes together."""
        self.max_calls = max_calls
        self.max_bytes = max_bytes
        self.calls = self.bytes = 0
        self.rejected = 0
        """Calls that were rejected because there was no room."""

    def require_room(self, size: int, *, own_calls: int, own_bytes: int) -> None:
        """Raise `BrokerUnavailable` if there is no room for a call of *size* bytes.

        Args:
            size: Bytes of the call.
            own_calls: Calls of the same connection that wait to be sent.
            own_bytes: Their bytes.
        """
        if (
            self.calls < self.max_calls
            and self.bytes + size <= self.max_bytes
            and own_calls < self.max_calls // 2
            and own_bytes + size <= self.max_bytes // 2
        ):
            return
        self.rejected += 1
        raise BrokerUnavailable(f"{self.calls} calls wait for Redis already")

    def add(self, calls: int, size: int) -> None:
        """Count *calls* that have *size* bytes together; negative numbers: calls that wait no longer."""
        self.calls += calls
        self.bytes += size

    def statistics(self) -> dict[str, int]:
        """Return sizes and counters."""
        return {"pending_bytes": self.bytes, "pending_rejected": self.rejected}

    def __repr__(self) -> str:
        return f"<PendingCalls {self.calls} calls {self.bytes} bytes>"
