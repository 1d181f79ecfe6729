"""The last words to a peer, which arrive: a socket closed over unread input is reset, and they are lost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

from uvicorn.server import ServerState


def part(transport: asyncio.Transport, server_state: ServerState, *, timeout: float) -> None:
    """Close *transport* once all was written and the peer has closed, at the latest after *timeout* seconds.

    We say that nothing more comes, then read and discard until the peer says so, too: the order of RFC 6455
    section 7.1.1. Its protocol is another one from now on.
    """
    if transport.is_closing():
        return
    transport.set_protocol(_Farewell(transport, server_state, timeout))
    with contextlib.suppress(RuntimeError):  # asyncio's own transport minds when it reads already
        transport.resume_reading()
    if transport.can_write_eof():
        transport.write_eof()
    else:
        transport.close()


class _Farewell(asyncio.Protocol):
    """Discards what still comes, until the peer closes or the time is up."""

    __slots__ = ("_deadline", "_server_state", "abort")

    def __init__(self, transport: asyncio.Transport, server_state: ServerState, timeout: float) -> None:
        self.abort = transport.abort
        self._deadline = asyncio.get_running_loop().call_later(timeout, self.abort)
        self._server_state = server_state
        # uvicorn's type names its own protocol classes; all it calls is `shutdown`.
        server_state.connections.add(cast("Any", self))

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self._server_state.connections.discard(cast("Any", self))

    def shutdown(self) -> None:
        """Go on: it is ending already."""
