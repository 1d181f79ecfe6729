"""HTTP/1.1 on the public listener: bounds on time and size of a request's head, and upgrades to WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.config import Config

from gateway import defaults
from gateway.access.client_address import Network, is_trusted
from gateway.errors import Rejection
from gateway.tasks import Tasks
from gateway.transport.http import rejections
from gateway.transport.http.bounded_head import BoundedHeadHttp, HeadLimits, rejection_of
from gateway.transport.http.lingering_close import close_lingering
from gateway.transport.http.open_connections import ConnectionStage, OpenConnections
from gateway.transport.http.proxy_protocol import (
    ProxyHeader,
    ProxyHeaderError,
    is_proxy_header,
    parse_proxy_header,
)
from gateway.transport.http.rejections import HttpRejection
from gateway.transport.websocket.handshake import Handshake
from gateway.transport.websocket.options import WebSocketOptions
from protocol.errors import ErrorCode

_TIMEOUT = rejections.render(
    Rejection(ErrorCode.BAD_REQUEST, "the head of the request did not come in time"),
    status=HTTPStatus.REQUEST_TIMEOUT,
)


_MALFORMED_PROXY_HEADER = rejections.render(
    Rejection(ErrorCode.BAD_REQUEST, "a missing or malformed header of the PROXY protocol")
)

PROXY_HEADER_SECONDS = 3.0
"""Until the header is complete: a proxy sends it at once (the specification asks for at least 3 s)."""


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """The bounds of HTTP on the public listener."""

    header_timeout: float = defaults.HEADER_TIMEOUT_SECONDS
    """Seconds until a request's head must be complete; uvicorn itself has no such limit."""
    head: HeadLimits = field(default_factory=HeadLimits)
    trusted_proxies: Sequence[Network] = ()
    """Networks from which every connection of a `ProxiedHttp` begins with a header of the PROXY protocol."""
    on_proxy_header_refused: Callable[[str, str], None] | None = None
    """Called with the address of the socket's other end, and why its header is refused."""
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
                if self._head_size == len(head) and is_proxy_header(data):
                    self._refuse_proxy_header(self._why_no_proxy_header)
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

    _why_no_proxy_header = "listen.public.proxy_protocol is off"
    """Why a header of the PROXY protocol is not accepted on this connection."""

    def _refuse_proxy_header(self, reason: str) -> None:
        self.open_connections.proxy_headers_refused += 1
        if self._options.on_proxy_header_refused is not None:
            self._options.on_proxy_header_refused(self.client[0] if self.client else "", reason)

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


class ProxiedHttp(PublicHttp):
    """HTTP behind proxies that send the PROXY protocol: their header says whose connection it is.

    A connection from `HttpOptions.trusted_proxies` must begin with a header, and one from elsewhere must not:
    a client could choose its address (section 5 of the specification).
    """

    _header = b""
    """What has been read of a header that is not complete."""
    _header_expected = False
    _why_no_proxy_header = "the address is not in listen.public.trusted_proxies"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the header, or of the request's head where there is no header."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if self._head_timer is not None and is_trusted(address, self._options.trusted_proxies):
            self._header_expected = True
            self._restart_timer(min(PROXY_HEADER_SECONDS, self._options.header_timeout))

    def data_received(self, data: bytes) -> None:
        """Read the header, then what the client sends."""
        if not self._header_expected:
            super().data_received(data)
            return
        self._header += data
        try:
            header = parse_proxy_header(self._header)
        except ProxyHeaderError as error:
            self._end_header()
            self._refuse_proxy_header(str(error))
            self._reject(_MALFORMED_PROXY_HEADER)
            return
        if header is not None:
            self._why_no_proxy_header = "it is the second one"
            rest = self._end_header()[header.size :]
            self._restart_timer(self._options.header_timeout)
            if self._take_source(header) and rest:
                super().data_received(rest)

    def _take_source(self, header: ProxyHeader) -> bool:
        """Make the connection that of the client in *header*; return False where it was aborted for that."""
        if header.source is None:
            return True  # the proxy's own connection, such as a health check
        self.client = header.source
        return self.open_connections.change_address(self.transport, header.source[0])

    def _end_header(self) -> bytes:
        header, self._header, self._header_expected = self._header, b"", False
        return header

    def _restart_timer(self, seconds: float) -> None:
        self._cancel_head_timer()
        self._head_timer = self.loop.call_later(seconds, self._on_head_timeout)

    def _on_head_timeout(self) -> None:
        if self._header_expected:
            self._end_header()
            self._refuse_proxy_header("it did not come in time")
        super()._on_head_timeout()


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
