"""The last words to a peer, which arrive: a socket closed over unread input is reset, and they are lost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

from uvicorn.server import ServerState

REST = 0.02
"""Seconds between two reads of what is discarded: who goes on at full speed would cost others theirs."""


def close_lingering(transport: asyncio.Transport, server_state: ServerState, *, timeout: float) -> None:
    """Close *transport* once all was written and the peer has closed, at the latest after *timeout* seconds.

    We say that nothing more comes, then read and discard until the peer says so, too: the order of RFC 6455
    section 7.1.1. Its protocol is another one from now on.
    """
    if transport.is_closing():
        return
    farewell = _Farewell(transport, server_state, timeout)
    transport.set_protocol(farewell)
    farewell.read()
    if transport.can_write_eof():
        transport.write_eof()
    else:
        transport.close()


class _Farewell(asyncio.Protocol):
    """Discards what still comes, until the peer closes or the time is up."""

    __slots__ = ("_deadline", "_loop", "_resting", "_server_state", "_transport", "abort")

    def __init__(self, transport: asyncio.Transport, server_state: ServerState, timeout: float) -> None:
        self.abort = transport.abort
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.call_later(timeout, self.abort)
        self._resting: asyncio.TimerHandle | None = None
        self._server_state = server_state
        # uvicorn's type names its own protocol classes; all it calls is `shutdown`.
        server_state.connections.add(cast("Any", self))

    def read(self) -> None:
        self._resting = None
        with contextlib.suppress(RuntimeError):  # asyncio's own transport minds when it reads already
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._resting is None:
            self._transport.pause_reading()
            self._resting = self._loop.call_later(REST, self.read)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        if self._resting is not None:
            self._resting.cancel()
        self._server_state.connections.discard(cast("Any", self))

    def shutdown(self) -> None:
        """Go on: it is ending already."""
