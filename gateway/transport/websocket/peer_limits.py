"""Limits on what one peer may send: frames of fragmented messages, and control frames, in a second."""

from __future__ import annotations

from gateway.clock import Clock
from protocol import limits

_FRAGMENTS_AT_ONCE = 64
"""Frames that are handled after a delay: a timer for each would cost as much again."""


class PeerLimits:
    """The counters of one connection, created with its first fragment or control frame."""

    __slots__ = (
        "_clock",
        "_control_tokens",
        "_fragment_tokens",
        "_fragments_refilled_at",
        "_refilled_at",
    )

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._control_tokens = limits.CONTROL_FRAME_BURST
        self._fragment_tokens = limits.FRAGMENT_BURST
        self._refilled_at = self._fragments_refilled_at = clock()

    def count_control_frame(self) -> str | None:
        """Count a control frame; return the violation when the peer sends too many in a second, else None."""
        now = self._clock()
        earned = (now - self._refilled_at) * limits.CONTROL_FRAMES_PER_SECOND
        self._control_tokens = min(limits.CONTROL_FRAME_BURST, self._control_tokens + earned) - 1.0
        self._refilled_at = now
        if self._control_tokens < 0:
            return f"more than {limits.CONTROL_FRAMES_PER_SECOND:.0f} control frames a second"
        return None

    def fragment_delay(self) -> float:
        """Count a frame of a fragmented message, and return 0; or return the seconds until it may be handled.

        Such a delay is as long as `_FRAGMENTS_AT_ONCE` frames take at the rate.
        """
        now = self._clock()
        earned = (now - self._fragments_refilled_at) * limits.FRAGMENTS_PER_SECOND
        tokens = min(limits.FRAGMENT_BURST, self._fragment_tokens + earned)
        self._fragments_refilled_at = now
        if tokens < 1.0:
            self._fragment_tokens = tokens
            return (_FRAGMENTS_AT_ONCE - tokens) / limits.FRAGMENTS_PER_SECOND
        self._fragment_tokens = tokens - 1.0
        return 0.0
