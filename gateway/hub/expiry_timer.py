"""The timer that ends a connection or a subscription with its token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.access.expiry import Expiry

EXPIRY_NOTICE_SECONDS = 30.0
"""How long before its token's expiry a client gets `expiring`; at most half of the time that is left."""


class ExpiryTimer:
    """Calls back shortly before a token ends, and when it ends, unless it is cancelled."""

    __slots__ = ("_on_ended", "_on_ending", "_timer", "expiry")

    def __init__(
        self,
        expiry: Expiry,
        *,
        on_ended: Callable[[], None],
        on_ending: Callable[[float], None] | None = None,
    ) -> None:
        """Start the timer.

        Args:
            expiry: When the token ends.
            on_ended: Called once, at that time.
            on_ending: Called with the seconds that are left, once, before that time.
        """
        self.expiry = expiry
        self._on_ended = on_ended
        self._on_ending = on_ending
        self._timer = self._start()

    @property
    def seconds_left(self) -> float:
        """Seconds until the token ends; never negative."""
        return self.expiry.seconds_left

    def cancel(self) -> None:
        """Make no further callback."""
        self._timer.cancel()

    def on_clock_step(self) -> None:
        """Start again: the loop's timers know neither a step of the wall clock nor a suspended machine."""
        self._timer.cancel()
        self._timer = self._start()

    def _start(self) -> asyncio.TimerHandle:
        left, loop = self.seconds_left, asyncio.get_running_loop()
        if self._on_ending is None:
            return loop.call_later(left, self._on_ended)
        return loop.call_later(max(left - EXPIRY_NOTICE_SECONDS, left / 2), self._notify)

    def _notify(self) -> None:
        on_ending, self._on_ending = self._on_ending, None
        self._timer = self._start()
        if on_ending is not None:
            on_ending(self.seconds_left)
