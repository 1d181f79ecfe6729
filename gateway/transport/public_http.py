"""HTTP/1.1 on the public listener: bounds on time and size of a request's head, and upgrades to WebSocket."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.config import Config

from gateway import defaults
from gateway.errors import Rejection
from gateway.tasks import Tasks
from gateway.transport.http import rejections
from gateway.transport.http.bounded_head import BoundedHeadHttp, HeadLimits, rejection_of
from gateway.transport.http.lingering_close import close_lingering
from gateway.transport.http.open_connections import ConnectionStage, OpenConnections
from gateway.transport.http.rejections import HttpRejection
from gateway.transport.websocket.handshake import Handshake
from gateway.transport.websocket.options import WebSocketOptions
from protocol.errors import ErrorCode

_TIMEOUT = rejections.render(
    Rejection(ErrorCode.BAD_REQUEST, "the head of the request did not come in time"),
    status=HTTPStatus.REQUEST_TIMEOUT,
)


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """The bounds of HTTP on the public listener."""

    header_timeout: float = defaults.HEADER_TIMEOUT_SECONDS
    """Seconds until a request's head must be complete; uvicorn itself has no such limit."""
    head: HeadLimits = field(default_factory=HeadLimits)
    websocket: WebSocketOptions = field(default_factory=WebSocketOptions)


class PublicHttp(BoundedHeadHttp):
    """uvicorn's HTTP protocol with bounds on the head, one request a connection, and our WebSocket handshake.

    What it relies on in uvicorn is listed in tests/gateway/runtime/test_uvicorn_contract.py.
    """

    def __init__(
        self,
        config: Config,
        server_state: OpenConnections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        tasks: Tasks,
        options: HttpOptions,
    ) -> None:
        """Bind *tasks* and *options* with `functools.partial` and name the result as uvicorn's `http`."""
        super().__init__(config, server_state, app_state, _loop, head_limits=options.head)
        self._fanway_tasks = tasks
        self._options = options
        self._head_size = 0
        self._request_received = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the request's head."""
        super().connection_made(transport)
        if transport.is_closing():
            return  # there is no room for it
        self._head_timer = self.loop.call_later(self._options.header_timeout, self._on_head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout of the request's head."""
        self._cancel_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse *data* up to the limit; what follows the head of an upgrade is for the WebSocket."""
        if self._request_received:
            return
        head = data[: self._head_limits.size - self._head_size]
        self._head_size += len(head)
        try:
            self.parser.feed_data(head)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self._start_handshake(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if not self._request_received:
                self._reject(rejection_of(error))
        else:
            if len(head) < len(data) and not self._request_received:
                self._reject(rejection_of(self.head_too_large()))

    def on_message_begin(self) -> None:
        """Start the only request of this connection; a second one ends the parsing.

        Nothing here is worth a second request, and a connection of one request is safe from request
        smuggling.
        """
        if self._request_received:
            raise _OneRequestError
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Cancel the timeout: the head is complete."""
        self._cancel_head_timer()
        super().on_headers_complete()
        if not (self.parser.should_upgrade() and self._should_upgrade()):
            self._request_received = True
            self.cycle.keep_alive = False
            self.open_connections.enter(ConnectionStage.CLOSING, self.transport)

    def _start_handshake(self, early_data: bytes) -> None:
        """Hand the connection over to a `Handshake`, with the *early_data* that followed the request."""
        try:
            path = _path(self.url)
        except httptools.HttpParserInvalidURLError as error:
            self._reject(rejection_of(error))
            return
        self.connections.discard(self)
        handshake = Handshake(
            self.config,
            self.open_connections,
            self.app_state,
            tasks=self._fanway_tasks,
            options=self._options.websocket,
        )
        transport = self.transport
        transport.set_protocol(handshake)
        headers, method, version = self.headers, self.scope["method"], self.scope["http_version"]
        self._release_parser()
        handshake.start(
            transport,
            path,
            headers,
            server=self.server,
            client=self.client,
            method=method,
            http_version=version,
            early_data=early_data,
        )

    def _release_parser(self) -> None:
        """Drop what only a request needs: the parser refers back to us, a cycle for the garbage collector."""
        self.parser = cast("Any", None)
        self.scope = cast("Any", None)
        self.flow = cast("Any", None)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        self._reject(_TIMEOUT if self._head_size else None)

    def _reject(self, rejection: HttpRejection | None) -> None:
        """Close, with *rejection* as the answer; None where nothing was asked."""
        self._cancel_head_timer()
        if not self.transport.is_closing():
            if rejection is not None:
                self.transport.write(_response(rejection))
            self.connections.discard(self)
            self.parser = cast("Any", None)
            close_lingering(
                self.transport, self.open_connections, timeout=self._options.websocket.close_timeout
            )


def _response(rejection: HttpRejection) -> bytes:
    body, status = rejection.json(), HTTPStatus(rejection.status)
    head = b"HTTP/1.1 %d %b\r\nconnection: close\r\n" % (status, status.phrase.encode())
    return b"%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (head, len(body), body)


def _path(target: bytes) -> str:
    """Return path and query of a request's *target*, also of an absolute URI (RFC 9112 section 3.2.2)."""
    if not target.startswith(b"/"):
        parsed = httptools.parse_url(target)
        target = (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")
    return target.decode("latin-1")


class _OneRequestError(Exception):
    """Ends the parsing at the second request of a connection."""
