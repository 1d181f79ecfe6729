"""The smallest application on the WebSocket transport: an echo, for conformance suites."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from gateway.delivery.encoding import data_frame
from gateway.runtime.listeners import Binding, Listener
from gateway.tasks import Tasks
from gateway.transport.public_http import HttpOptions, PublicHttp
from gateway.transport.websocket.handshake import EXTENSION
from gateway.transport.websocket.transport import WebSocketTransport
from tests.e2e.gateway import serving_listener


class Echo:
    """Sends back every message as it came: text as text, binary as binary."""

    def __init__(self, link: WebSocketTransport) -> None:
        self._link = link

    def on_message(self, payload: bytes, *, binary: bool) -> None:
        self._link.write(data_frame(payload, binary=binary))

    def on_full(self) -> None:
        """Do nothing."""

    def on_drained(self) -> None:
        """Ignored: an echo has no backlog."""

    def on_closed(self, code: int) -> None:
        """Ignored: an echo has no state."""


async def _echo(socket: WebSocket) -> None:
    await socket.accept()
    link = socket.scope["extensions"][EXTENSION].websocket
    if link is not None:
        link.attach(Echo(link))


@asynccontextmanager
async def echo(options: HttpOptions | None = None) -> AsyncIterator[int]:
    """Serve an echo at `/` on the running loop; yields the port."""
    tasks = Tasks(_fail)
    app = Starlette(routes=[WebSocketRoute("/", _echo)])
    http = partial(PublicHttp, tasks=tasks, options=options or HttpOptions())
    listener = Listener(app, Binding("127.0.0.1", 0), http=http)
    async with serving_listener(listener):
        yield listener.port
    await tasks.close()


def _fail(error: BaseException) -> None:
    pytest.fail(f"unexpected: {error!r}")
