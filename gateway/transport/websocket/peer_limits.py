"""Limits on what one peer may send: fragments in a message, control frames in a second."""

from __future__ import annotations

from gateway.clock import Clock
from protocol import limits


class PeerLimits:
    """The counters of one connection, created with its first fragment or control frame."""

    __slots__ = ("_clock", "_control_tokens", "_fragments", "_refilled_at")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._control_tokens = limits.CONTROL_FRAME_BURST
        self._refilled_at = clock()
        self._fragments = 0

    def count_control_frame(self) -> str | None:
        """Count a control frame; return the violation when the peer sends too many in a second, else None."""
        now = self._clock()
        earned = (now - self._refilled_at) * limits.CONTROL_FRAMES_PER_SECOND
        self._control_tokens = min(limits.CONTROL_FRAME_BURST, self._control_tokens + earned) - 1.0
        self._refilled_at = now
        if self._control_tokens < 0:
            return f"more than {limits.CONTROL_FRAMES_PER_SECOND:.0f} control frames a second"
        return None

    def count_fragment(self, *, final: bool) -> str | None:
        """Count a frame of a fragmented message; return the violation when it has too many, else None."""
        self._fragments += 1
        if self._fragments > limits.FRAGMENTS:
            return f"a message in more than {limits.FRAGMENTS} fragments"
        if final:
            self._fragments = 0
        return None
