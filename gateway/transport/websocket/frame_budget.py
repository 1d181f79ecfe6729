"""How many frames of all connections together are handled in one turn of the event loop."""

from __future__ import annotations

import asyncio

FRAMES_PER_TURN = 256
"""About 4 ms of small frames that are rejected or answered at once."""


class FrameBudget:
    """Frames beyond the first of each connection, which all connections share in a turn.

    Bounds of one connection do not bound a turn: a thousand connections with 64 small frames each would hold
    the event loop for a second. The first frame of a connection is always handled: each makes progress.
    """

    __slots__ = ("_left", "_limit", "_reset_scheduled")

    def __init__(self, limit: int = FRAMES_PER_TURN) -> None:
        self._limit = self._left = limit
        self._reset_scheduled = False

    def take(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether one more frame may be handled in this turn of *loop*."""
        if not self._reset_scheduled:
            self._reset_scheduled = True
            loop.call_soon(self._reset)
        self._left -= 1
        return self._left >= 0

    def _reset(self) -> None:
        self._reset_scheduled = False
        self._left = self._limit
