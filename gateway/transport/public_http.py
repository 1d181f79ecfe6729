"""HTTP/1.1 on the public listener: a head that must come in time and fit, and the way to the handshake."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.errors import Rejection
from gateway.tasks import Tasks
from gateway.transport.http import rejections
from gateway.transport.http.lingering_close import close_lingering
from gateway.transport.websocket.handshake import Handshake
from gateway.transport.websocket.options import WebSocketOptions
from protocol.errors import ErrorCode


def _refusal(status: HTTPStatus, message: str) -> bytes:
    body = rejections.render(Rejection(ErrorCode.BAD_REQUEST, message)).json()
    head = b"HTTP/1.1 %d %b\r\nconnection: close\r\n" % (status, status.phrase.encode())
    return b"%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (head, len(body), body)


_MALFORMED = _refusal(HTTPStatus.BAD_REQUEST, "a malformed HTTP request")
_TOO_LARGE = _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large")
_TIMEOUT = _refusal(HTTPStatus.REQUEST_TIMEOUT, "the head of the request did not come in time")


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """The bounds of HTTP on the public listener."""

    header_timeout: float = 5.0
    """Seconds until a request's head must be there; uvicorn itself waits for ever."""
    header_size: int = 16 * 1024
    """Bytes in a request's head: 431 beyond."""
    link: WebSocketOptions = field(default_factory=WebSocketOptions)


class PublicHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with deadlines and bounds, and with our handshake for upgrades."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        tasks: Tasks,
        options: HttpOptions,
    ) -> None:
        """Bind *tasks* and *options* with `functools.partial` and name the result as uvicorn's `http`."""
        super().__init__(config, server_state, app_state, _loop)
        self._fanway_tasks = tasks
        self._options = options
        self._head_size = 0
        self._asked = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and expect a request's head in time."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self._options.header_timeout, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the deadline with the connection."""
        self._head_complete()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse *data* while the head stays within its bounds; what comes behind it is for the link."""
        if self._asked:
            return
        head = data[: self._options.header_size - self._head_size]
        self._head_size += len(head)
        try:
            self.parser.feed_data(head)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if not self._asked:
                self._refuse(_MALFORMED)
        else:
            if len(head) < len(data) and not self._asked:
                self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin the only request of this connection.

        There is nothing here to ask twice, and who may ask once cannot hide a request in another's body.
        """
        if self._asked:
            raise _OneRequestError
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End the deadline: the head is here."""
        self._head_complete()
        super().on_headers_complete()
        if not (self.parser.should_upgrade() and self._should_upgrade()):
            self._asked = True
            self.cycle.keep_alive = False

    def _upgrade(self, early: bytes) -> None:
        """Hand the connection to a handshake, and *early*, which the client sent with its request."""
        try:
            path = _path(self.url)
        except httptools.HttpParserInvalidURLError:
            self._refuse(_MALFORMED)
            return
        self.connections.discard(self)
        handshake = Handshake(
            self.config,
            self.server_state,
            self.app_state,
            tasks=self._fanway_tasks,
            options=self._options.link,
        )
        transport = self.transport
        transport.set_protocol(handshake)
        headers, method, version = self.headers, self.scope["method"], self.scope["http_version"]
        self._let_go()
        handshake.begin(
            transport,
            path,
            headers,
            server=self.server,
            client=self.client,
            method=method,
            http_version=version,
            early=early,
        )

    def _let_go(self) -> None:
        """Drop what only a request needs: the parser refers to us, and both would wait for the collector."""
        self.parser = cast("Any", None)
        self.scope = cast("Any", None)
        self.flow = cast("Any", None)

    def _head_complete(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        self._refuse(_TIMEOUT if self._head_size else b"")

    def _refuse(self, response: bytes) -> None:
        self._head_complete()
        if not self.transport.is_closing():
            if response:
                self.transport.write(response)
            self.connections.discard(self)
            self.parser = cast("Any", None)
            close_lingering(self.transport, self.server_state, timeout=self._options.link.close_timeout)


def _path(target: bytes) -> str:
    """Return path and query of a request's *target*, which may name the server (RFC 9112 section 3.2.2)."""
    if not target.startswith(b"/"):
        parsed = httptools.parse_url(target)
        target = (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")
    return target.decode("latin-1")


class _OneRequestError(Exception):
    """Ends the parsing: what follows the first request of a connection is not read."""
