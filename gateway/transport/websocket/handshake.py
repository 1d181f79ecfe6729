"""The opening handshake (RFC 6455 section 4.2), an ASGI conversation that ends in a `WebSocketTransport`.

The application is asked with the usual ASGI messages and may accept or answer with any HTTP response
(`websocket.http.response`). Once it has accepted, `scope["extensions"]["fanway.link"].link` is the open link,
and the application returns: nothing of ASGI, no task and no queue stays for the life of the connection.
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
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from gateway.errors import Rejection
from gateway.tasks import Tasks
from gateway.transport.http import rejections
from gateway.transport.http.lingering_close import close_lingering
from gateway.transport.websocket.options import WebSocketOptions
from gateway.transport.websocket.transport import WebSocketTransport
from protocol.errors import CLOSES, CloseCode, ErrorCode

EXTENSION = "fanway.link"

Address = tuple[str, int | None]
VERSION = "13"
"""The only version of the protocol there is (RFC 6455 section 4.1)."""

_quiet = logging.getLogger("gateway.transport.websockets")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False
_quiet.setLevel(logging.CRITICAL)

_checker = ServerProtocol(logger=_quiet)
"""Checks every request: `process_request` keeps nothing of one that the next could see."""

_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n"
)
"""By hand: `ServerProtocol.accept` and its `Response` cost 20 µs more of a handshake's 120."""


_FAILED = "the gateway failed; its log says how"
_CLOSED = "this may not be connected to"
_STOPPING = "this node stops: connect to another"


class Handshake(asyncio.Protocol):
    """One upgrade request, from its head to an open link or a refusal."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        tasks: Tasks,
        options: WebSocketOptions,
    ) -> None:
        """Answer with the application of *config*; see `begin`."""
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._tasks = tasks
        self._options = options
        self._transport: asyncio.Transport
        self._peer = ""
        self._accept_key = ""
        self._denial: tuple[int, list[tuple[str, str]], bytes] | None = None
        self._early = b""
        self._answered = False
        self._lost = False
        self.link: WebSocketTransport | None = None
        """The open link, once the application has accepted."""

    def begin(
        self,
        transport: asyncio.Transport,
        path: str,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        server: Address | None = None,
        client: Address | None = None,
        method: str = "GET",
        http_version: str = "1.1",
        early: bytes = b"",
    ) -> None:
        """Answer the request for *path*; *early* is what the client sent behind its head."""
        self._transport = transport
        self._peer = client[0] if client else ""
        self._early = early
        self._server_state.connections.add(cast("Any", self))
        decoded = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        every = Headers(decoded)
        objection = _objection(method, http_version, every)
        if objection is None:
            request = Request(path, every)
            try:
                self._accept_key = _checker.process_request(request)[0]
            except InvalidHandshake as fault:
                objection = _refusal(HTTPStatus.BAD_REQUEST, str(fault))
        if objection is not None:
            self._refuse(objection)
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
            "subprotocols": _tokens(decoded, "sec-websocket-protocol"),
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}, EXTENSION: self},
        }
        self._tasks.start(self._ask(scope))

    async def _ask(self, scope: dict[str, Any]) -> None:
        try:
            await self._config.loaded_app(
                cast("Any", scope), cast("Any", self._receive), cast("Any", self._send)
            )
        except Exception:
            logging.getLogger("gateway.transport").exception("the handshake of a connection failed")
        if not self._answered:
            self._refuse(_refusal(HTTPStatus.INTERNAL_SERVER_ERROR, _FAILED, code=ErrorCode.INTERNAL))
        elif self.link is not None and not self.link.is_attached:
            self.link.close(CloseCode.INTERNAL, CLOSES[CloseCode.INTERNAL].reason)

    async def _receive(self) -> dict[str, Any]:
        if self._lost or self._answered:
            return {"type": "websocket.disconnect", "code": 1006}
        return {"type": "websocket.connect"}

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self._lost or self._answered:
            return
        if kind == "websocket.accept":
            self._accept(message.get("subprotocol"), message.get("headers", ()))
        elif kind == "websocket.close":
            self._refuse(_refusal(HTTPStatus.FORBIDDEN, _CLOSED, code=ErrorCode.PERMISSION_DENIED))
        elif kind == "websocket.http.response.start":
            headers = [
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]
            ]
            self._denial = (message["status"], headers, b"")
        elif kind == "websocket.http.response.body" and self._denial is not None:
            status, headers, body = self._denial
            body += message.get("body", b"")
            self._denial = (status, headers, body)
            if not message.get("more_body", False):
                self._refuse(_response(HTTPStatus(status), body, headers))
        else:
            raise RuntimeError(
                f"an application may accept or answer a handshake, not send {kind!r}: use the link"
            )

    def _accept(self, subprotocol: str | None, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._answered = True
        self._server_state.connections.discard(cast("Any", self))
        self.link = WebSocketTransport(
            self._transport,
            loop=asyncio.get_running_loop(),
            server_state=self._server_state,
            options=self._options,
            peer=self._peer,
        )
        self._transport.set_protocol(self.link)
        self.link.connection_made(self._transport)
        response = _SWITCHING % self._accept_key.encode("ascii")
        if subprotocol:
            response += b"Sec-WebSocket-Protocol: %b\r\n" % subprotocol.encode("ascii")
        for name, value in headers:
            response += b"%b: %b\r\n" % (name, value)
        self._transport.write(response + b"\r\n")
        if self._early:
            self.link.data_received(self._early)

    def _refuse(self, response: Response) -> None:
        """Answer with *response* and close."""
        self._answered = True
        if not self._transport.is_closing():
            self._transport.write(response.serialize())
            self._server_state.connections.discard(cast("Any", self))
            close_lingering(self._transport, self._server_state, timeout=self._options.close_timeout)

    # ------------------------------------------------------------ for the transport and for uvicorn

    def data_received(self, data: bytes) -> None:
        """Keep what comes before the answer; a client has no reason to send much."""
        self._early += data
        if len(self._early) > self._options.message_size:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that nobody waits for the answer any more."""
        self._lost = True
        self._server_state.connections.discard(cast("Any", self))

    def shutdown(self) -> None:
        """Refuse because the server stops; never raises."""
        if not self._answered:
            code = ErrorCode.UNAVAILABLE
            self._refuse(_refusal(HTTPStatus.SERVICE_UNAVAILABLE, _STOPPING, code=code, retry_after=1))

    def abort(self) -> None:
        """End the socket at once."""
        self._transport.abort()


def _objection(method: str, http_version: str, headers: Headers) -> Response | None:
    """Return the refusal of what is no opening handshake (RFC 6455 section 4.2.1); the core checks more."""
    if method != "GET":
        return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, "use GET", [("Allow", "GET")])
    if http_version != "1.1":
        return _refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "use HTTP/1.1")
    if len(headers.get_all("Host")) != 1:
        return _refusal(HTTPStatus.BAD_REQUEST, "send one Host header")
    sizes = headers.get_all("Content-Length")
    if "Transfer-Encoding" in headers or any(set(size) != {"0"} for size in sizes):
        # Whoever forwards it would take for a body what we take for frames.
        return _refusal(HTTPStatus.BAD_REQUEST, "an upgrade request has no body")
    if headers.get_all("Sec-WebSocket-Version") != [VERSION]:
        expected = [("Sec-WebSocket-Version", VERSION), ("Upgrade", "websocket")]
        return _refusal(HTTPStatus.UPGRADE_REQUIRED, "use version 13 of the protocol", expected)
    return None


def _tokens(headers: Sequence[tuple[str, str]], name: str) -> list[str]:
    """Return the comma-separated items of every header *name*, in order, without empty ones."""
    every = (item.strip() for key, value in headers if key.lower() == name for item in value.split(","))
    return [item for item in every if item]


def _refusal(
    status: HTTPStatus,
    message: str,
    headers: Sequence[tuple[str, str]] = (),
    *,
    code: ErrorCode = ErrorCode.BAD_REQUEST,
    retry_after: float | None = None,
) -> Response:
    """Return a refusal with the body that docs/protocol.md promises; *retry_after* is in seconds."""
    rendered = rejections.render(Rejection(code, message, retry_after), status=status)
    every = [*headers, ("Content-Type", "application/json"), *rendered.headers.items()]
    return _response(status, rendered.json(), every)


def _response(status: HTTPStatus, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> Response:
    every = Headers(headers)
    every.setdefault("Date", formatdate(usegmt=True))
    every.setdefault("Content-Length", str(len(body)))
    every.setdefault("Content-Type", "text/plain; charset=utf-8")
    every["Connection"] = "close"
    return Response(status.value, status.phrase, every, body)
