"""What one peer may make us do: fragments a message, control frames a second. The link acts on it."""

from __future__ import annotations

from gateway.clock import Clock
from protocol import limits


class PeerLimits:
    """The allowances of one connection, made when it first sends something unusual."""

    __slots__ = ("_allowance", "_clock", "_fragments", "_refilled")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._allowance = limits.PING_BURST
        self._refilled = clock()
        self._fragments = 0

    def control(self) -> str | None:
        """Count a control frame; return what is wrong when there are too many."""
        now = self._clock()
        earned = (now - self._refilled) * limits.PINGS_PER_SECOND
        self._allowance = min(limits.PING_BURST, self._allowance + earned) - 1.0
        self._refilled = now
        if self._allowance < 0:
            return f"more than {limits.PINGS_PER_SECOND:.0f} control frames a second"
        return None

    def fragment(self, *, last: bool) -> str | None:
        """Count a frame of a fragmented message; return what is wrong when there are too many."""
        self._fragments += 1
        if self._fragments > limits.FRAGMENTS:
            return f"a message in more than {limits.FRAGMENTS} fragments"
        if last:
            self._fragments = 0
        return None
