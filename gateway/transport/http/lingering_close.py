"""Closing a socket so that the peer can read what was written last.

A socket that is closed while unread input is in the kernel's buffer is reset, and a reset discards what the
peer has not read yet: the reason of a rejection, or a Close frame.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

from gateway.transport.http.open_connections import ConnectionStage, OpenConnections

READ_INTERVAL_SECONDS = 0.02
"""Seconds between two reads of discarded data: a peer that sends at full speed must not slow others down."""


def close_lingering(transport: asyncio.Transport, server_state: OpenConnections, *, timeout: float) -> None:
    """Close *transport* once all data is written and the peer has closed; abort it after *timeout* seconds.

    Our side of the connection is shut down first; input is then read and discarded until the peer closes its
    side, the order of RFC 6455 section 7.1.1. The transport's protocol is replaced.
    """
    if transport.is_closing():
        return
    server_state.enter(ConnectionStage.CLOSING, transport)
    protocol = _DiscardingProtocol(transport, server_state, timeout)
    transport.set_protocol(protocol)
    protocol.read()
    if transport.can_write_eof():
        transport.write_eof()
    else:
        transport.close()


class _DiscardingProtocol(asyncio.Protocol):
    """Discards input until the peer closes, and aborts the socket after the timeout."""

    __slots__ = ("_loop", "_read_timer", "_server_state", "_timeout_timer", "_transport", "abort")

    def __init__(self, transport: asyncio.Transport, server_state: OpenConnections, timeout: float) -> None:
        self.abort = transport.abort
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._timeout_timer = self._loop.call_later(timeout, self.abort)
        self._read_timer: asyncio.TimerHandle | None = None
        self._server_state = server_state
        # uvicorn's type names its own protocol classes; all it calls is `shutdown`.
        server_state.connections.add(cast("Any", self))

    def read(self) -> None:
        self._read_timer = None
        with contextlib.suppress(RuntimeError):  # asyncio's own transport raises when it reads already
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._read_timer is None:
            self._transport.pause_reading()
            self._read_timer = self._loop.call_later(READ_INTERVAL_SECONDS, self.read)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timeout_timer.cancel()
        if self._read_timer is not None:
            self._read_timer.cancel()
        self._server_state.connections.discard(cast("Any", self))
        self._server_state.closed(self._transport)

    def shutdown(self) -> None:
        """Do nothing more: the connection is closing already."""
