"""The opening handshake (RFC 6455 section 4.2) as an ASGI server that returns a `WebSocketTransport`.

The application gets the usual ASGI messages and may accept, or answer with any HTTP response
(`websocket.http.response`). Once it has accepted, `scope["extensions"]["fanway.websocket"].websocket` is the
open connection, and the application returns: no ASGI objects, no task and no queue exist while the connection
is open.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.utils import is_ssl
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from gateway.errors import Rejection
from gateway.tasks import Tasks
from gateway.transport.http import rejections
from gateway.transport.http.lingering_close import close_lingering
from gateway.transport.http.open_connections import ConnectionStage, OpenConnections
from gateway.transport.websocket.options import WebSocketOptions
from gateway.transport.websocket.transport import WebSocketTransport
from protocol.errors import CLOSES, CloseCode, ErrorCode

EXTENSION = "fanway.websocket"
"""The key in the extensions of an ASGI scope under which an application finds its `Handshake`."""

Address = tuple[str, int | None]
VERSION = "13"
"""The only version of the protocol there is (RFC 6455 section 4.1)."""

_silent_logger = logging.getLogger("gateway.transport.websockets")
_silent_logger.addHandler(logging.NullHandler())
_silent_logger.propagate = False
_silent_logger.setLevel(logging.CRITICAL)

_request_checker = ServerProtocol(logger=_silent_logger)
"""Shared by all requests: `process_request` stores nothing about the request that it checks."""

_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n"
)
"""Written by hand: `ServerProtocol.accept` and its `Response` cost 20 µs more of a handshake's 120."""

_FAILED = "the gateway failed; its log says how"
_DENIED = "connections to this path are not allowed"
_STOPPING = "this node stops: connect to another"


class Handshake(asyncio.Protocol):
    """One upgrade request, from its head to an open connection or an HTTP error response."""

    def __init__(
        self,
        config: Config,
        server_state: OpenConnections,
        app_state: dict[str, Any],
        *,
        tasks: Tasks,
        options: WebSocketOptions,
    ) -> None:
        """Answer with the ASGI application of *config*; `start` begins."""
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._tasks = tasks
        self._options = options
        self._transport: asyncio.Transport
        self._peer = ""
        self._accept_key = ""
        self._http_response: tuple[int, list[tuple[str, str]], bytes] | None = None
        self._early_data = b""
        self._answered = False
        self._disconnected = False
        self.websocket: WebSocketTransport | None = None
        """The open connection, once the application has accepted."""

    def start(
        self,
        transport: asyncio.Transport,
        path: str,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        server: Address | None = None,
        client: Address | None = None,
        method: str = "GET",
        http_version: str = "1.1",
        early_data: bytes = b"",
    ) -> None:
        """Answer the request for *path*; *early_data* is what the client sent after the request's head."""
        self._transport = transport
        self._peer = client[0] if client else ""
        self._early_data = early_data
        self._server_state.connections.add(cast("Any", self))
        decoded = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        all_headers = Headers(decoded)
        rejection = _check_request(method, http_version, all_headers)
        if rejection is None:
            request = Request(path, all_headers)
            try:
                self._accept_key = _request_checker.process_request(request)[0]
            except InvalidHandshake as fault:
                rejection = _error_response(HTTPStatus.BAD_REQUEST, str(fault))
        if rejection is not None:
            self._reject(rejection)
            return
        raw_path, _, query = path.partition("?")
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(transport) else "ws",
            "server": server,
            "client": client,
            "root_path": "",
            "path": unquote(raw_path),
            "raw_path": raw_path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "headers": headers,
            "subprotocols": _header_items(decoded, "sec-websocket-protocol"),
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}, EXTENSION: self},
        }
        self._tasks.start(self._run_application(scope))

    async def _run_application(self, scope: dict[str, Any]) -> None:
        try:
            await self._config.loaded_app(
                cast("Any", scope), cast("Any", self._receive), cast("Any", self._send)
            )
        except Exception:
            logging.getLogger("gateway.transport").exception("the handshake of a connection failed")
        if not self._answered:
            self._reject(_error_response(HTTPStatus.INTERNAL_SERVER_ERROR, _FAILED, code=ErrorCode.INTERNAL))
        elif self.websocket is not None and not self.websocket.is_attached:
            self.websocket.close(CloseCode.INTERNAL, CLOSES[CloseCode.INTERNAL].reason)

    async def _receive(self) -> dict[str, Any]:
        if self._disconnected or self._answered:
            return {"type": "websocket.disconnect", "code": 1006}
        return {"type": "websocket.connect"}

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self._disconnected or self._answered:
            return
        if kind == "websocket.accept":
            self._accept(message.get("subprotocol"), message.get("headers", ()))
        elif kind == "websocket.close":
            self._reject(_error_response(HTTPStatus.FORBIDDEN, _DENIED, code=ErrorCode.PERMISSION_DENIED))
        elif kind == "websocket.http.response.start":
            headers = [
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]
            ]
            self._http_response = (message["status"], headers, b"")
        elif kind == "websocket.http.response.body" and self._http_response is not None:
            status, headers, body = self._http_response
            body += message.get("body", b"")
            self._http_response = (status, headers, body)
            if not message.get("more_body", False):
                self._reject(_response(HTTPStatus(status), body, headers))
        else:
            raise RuntimeError(
                f"an application may accept or answer a handshake, not send {kind!r}: use the open connection"
            )

    def _accept(self, subprotocol: str | None, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._answered = True
        self._server_state.connections.discard(cast("Any", self))
        self._server_state.enter(ConnectionStage.UPGRADED, self._transport)
        self.websocket = WebSocketTransport(
            self._transport,
            loop=asyncio.get_running_loop(),
            server_state=self._server_state,
            options=self._options,
            peer=self._peer,
        )
        self._transport.set_protocol(self.websocket)
        self.websocket.connection_made(self._transport)
        response = _SWITCHING % self._accept_key.encode("ascii")
        if subprotocol:
            response += b"Sec-WebSocket-Protocol: %b\r\n" % subprotocol.encode("ascii")
        for name, value in headers:
            response += b"%b: %b\r\n" % (name, value)
        self._transport.write(response + b"\r\n")
        if self._early_data:
            self.websocket.data_received(self._early_data)

    def _reject(self, response: Response) -> None:
        """Answer with *response* and close."""
        self._answered = True
        if not self._transport.is_closing():
            self._transport.write(response.serialize())
            self._server_state.connections.discard(cast("Any", self))
            close_lingering(self._transport, self._server_state, timeout=self._options.close_timeout)

    # ------------------------------------------------------------ called by asyncio and by uvicorn

    def data_received(self, data: bytes) -> None:
        """Buffer what arrives before the answer; a client that sends much by then is aborted."""
        self._early_data += data
        if len(self._early_data) > self._options.message_size:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the client is gone: the answer is discarded."""
        self._disconnected = True
        self._server_state.connections.discard(cast("Any", self))
        self._server_state.closed(self._transport)

    def shutdown(self) -> None:
        """Reject because the server stops; never raises (uvicorn calls it on every connection)."""
        if not self._answered:
            code = ErrorCode.UNAVAILABLE
            self._reject(_error_response(HTTPStatus.SERVICE_UNAVAILABLE, _STOPPING, code=code, retry_after=1))

    def abort(self) -> None:
        """Close the socket at once."""
        self._transport.abort()


def _check_request(method: str, http_version: str, headers: Headers) -> Response | None:
    """Return the response to a request that is not an opening handshake (RFC 6455 section 4.2.1), else None.

    `ServerProtocol.process_request` of `websockets` checks the rest.
    """
    if method != "GET":
        return _error_response(HTTPStatus.METHOD_NOT_ALLOWED, "use GET", [("Allow", "GET")])
    if http_version != "1.1":
        return _error_response(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "use HTTP/1.1")
    if len(headers.get_all("Host")) != 1:
        return _error_response(HTTPStatus.BAD_REQUEST, "send one Host header")
    sizes = headers.get_all("Content-Length")
    if "Transfer-Encoding" in headers or any(set(size) != {"0"} for size in sizes):
        # A proxy would forward as a body what is handled as frames here (request smuggling).
        return _error_response(HTTPStatus.BAD_REQUEST, "an upgrade request has no body")
    if headers.get_all("Sec-WebSocket-Version") != [VERSION]:
        expected = [("Sec-WebSocket-Version", VERSION), ("Upgrade", "websocket")]
        return _error_response(HTTPStatus.UPGRADE_REQUIRED, "use version 13 of the protocol", expected)
    return None


def _header_items(headers: Sequence[tuple[str, str]], name: str) -> list[str]:
    """Return the comma-separated items of every header *name*, in order, without empty ones."""
    items = (item.strip() for key, value in headers if key.lower() == name for item in value.split(","))
    return [item for item in items if item]


def _error_response(
    status: HTTPStatus,
    message: str,
    headers: Sequence[tuple[str, str]] = (),
    *,
    code: ErrorCode = ErrorCode.BAD_REQUEST,
    retry_after: float | None = None,
) -> Response:
    """Return an error response as docs/protocol.md#connecting describes it; *retry_after* is in seconds."""
    rendered = rejections.render(Rejection(code, message, retry_after), status=status)
    all_headers = [*headers, ("Content-Type", "application/json"), *rendered.headers.items()]
    return _response(status, rendered.json(), all_headers)


def _response(status: HTTPStatus, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> Response:
    all_headers = Headers(headers)
    all_headers.setdefault("Date", formatdate(usegmt=True))
    all_headers.setdefault("Content-Length", str(len(body)))
    all_headers.setdefault("Content-Type", "text/plain; charset=utf-8")
    all_headers["Connection"] = "close"
    return Response(status.value, status.phrase, all_headers, body)
