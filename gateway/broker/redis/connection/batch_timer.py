"""When calls that can share one script are sent: at once, and under load once per interval."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.broker.redis.timeouts import BATCH_INTERVAL_SECONDS


class BatchTimer:
    """Calls *flush* at the end of the turn of the event loop, or `BATCH_INTERVAL_SECONDS` after the last."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._due: asyncio.Handle | None = None
        self._not_before = 0.0

    def request(self) -> None:
        """Call *flush*, once for all requests until then."""
        if self._due is not None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._not_before:
            self._due = loop.call_soon(self.flush)
        else:
            self._due = loop.call_at(self._not_before, self.flush)

    def flush(self) -> None:
        """Call *flush* now."""
        self.cancel()
        self._not_before = asyncio.get_running_loop().time() + BATCH_INTERVAL_SECONDS
        self._flush()

    def cancel(self) -> None:
        """Do not call *flush* for the requests until now."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
