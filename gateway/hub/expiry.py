"""The end of a token: its client is told in time, and the connection ends with it unless it is refreshed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.clock import Clock

NOTICE = 30.0
"""Seconds before the end at which the client is told; half of what is left where that is shorter."""


class Expiry:
    """One token's end, until it is cancelled."""

    __slots__ = ("_expired", "_notify", "_timer", "_wall", "moment")

    def __init__(
        self, moment: float, wall: Clock, *, notify: Callable[[float], None], expired: Callable[[], None]
    ) -> None:
        """Call *notify* with the seconds that are left in time before *moment* (Unix), *expired* then."""
        self.moment = moment
        self._wall = wall
        self._notify = notify
        self._expired = expired
        left = self.left
        self._timer = self._later(max(left - NOTICE, left / 2), self._in_time)

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return max(0.0, self.moment - self._wall())

    def cancel(self) -> None:
        """Let nothing more come of it."""
        self._timer.cancel()

    def _in_time(self) -> None:
        self._timer = self._later(self.left, self._expired)
        self._notify(self.left)

    def _later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay, callback)
