"""The public listener's ASGI application: `GET /v1/ws` with admission and subprotocols; error responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from gateway.errors import Rejection
from gateway.transport.http import rejections
from gateway.transport.websocket.handshake import EXTENSION
from gateway.transport.websocket.transport import WebSocketTransport
from protocol.codec import CODECS, JSON, Codec
from protocol.errors import ErrorCode

PATH = "/v1/ws"


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """The client of an upgrade request, as its head describes it."""

    peer: str
    """The address of the socket's other end."""
    forwarded_for: Sequence[str]
    """The values of every X-Forwarded-For header, in order."""
    origin: str | None
    host: str | None
    token: str | None
    """The bearer token of the Authorization header."""


Gate = Callable[[UpgradeRequest], Rejection | Callable[[], None]]
"""Admits a client: returns the callable that releases its place, or a rejection."""

Opener = Callable[[WebSocketTransport, Codec, UpgradeRequest, Callable[[], None]], None]
"""Attaches a session to an open transport; the session must call the last argument when it ends."""


class UpgradeEndpoint:
    """`GET /v1/ws` as plain ASGI: Starlette's `WebSocket` would cost each connection 20 µs more."""

    def __init__(self, gate: Gate, opener: Opener) -> None:
        """Ask *gate* about each request, and pass each accepted connection to *opener*."""
        self._gate = gate
        self._opener = opener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept the handshake and attach a session, or answer with a rejection."""
        offered = scope["subprotocols"]
        request = _upgrade_request(scope)
        codec = choose_codec(offered)
        release = self._gate(request) if codec is not None else _no_subprotocol()
        if codec is None or isinstance(release, Rejection):
            await WebSocket(scope, receive, send).send_denial_response(_response(release))  # type: ignore[arg-type]
            return
        await send({"type": "websocket.accept", "subprotocol": codec.subprotocol if offered else None})
        websocket = scope["extensions"][EXTENSION].websocket
        if websocket is None:
            release()
            return
        self._opener(websocket, codec, request, release)


def application(gate: Gate, opener: Opener, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """Return the application of the public listener: `GET /v1/ws`, and *routes*."""
    app = Starlette(
        routes=[WebSocketRoute(PATH, UpgradeEndpoint(gate, opener)), Route(PATH, _upgrade_required), *routes],
        exception_handlers={HTTPException: _http_error},
    )
    app.router.default = _not_found
    return app


def choose_codec(offered: Sequence[str]) -> Codec | None:
    """Return the codec of the first known one of the subprotocols *offered*; JSON if none are offered."""
    if not offered:
        return JSON
    return next((CODECS[name] for name in offered if name in CODECS), None)


async def _upgrade_required(_: Request) -> Response:
    response = _bad_request("this is a WebSocket endpoint: send an upgrade request", status=426)
    response.headers.update({"upgrade": "websocket", "connection": "upgrade"})
    return response


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer requests without a route, upgrades included: Starlette would answer those with an empty 403."""
    response = _bad_request(f"there is nothing here: WebSockets are at {PATH}", status=404)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await response(scope, receive, send)


async def _http_error(_: Request, error: Any) -> Response:
    response = _bad_request(error.detail, status=error.status_code)
    response.headers.update(error.headers or {})
    return response


def _no_subprotocol() -> Rejection:
    return Rejection(ErrorCode.BAD_REQUEST, f"offer one of the subprotocols {', '.join(CODECS)}")


def _bad_request(message: str, *, status: int) -> Response:
    return _response(Rejection(ErrorCode.BAD_REQUEST, message), status=status)


def _response(rejection: Rejection, *, status: int | None = None) -> Response:
    rendered = rejections.render(rejection, status=status)
    return Response(rendered.json(), rendered.status, rendered.headers, "application/json")


def _upgrade_request(scope: Scope) -> UpgradeRequest:
    first: dict[bytes, str] = {}
    forwarded: list[str] = []
    for name, value in scope["headers"]:
        key = name.lower()
        if key == b"x-forwarded-for":
            forwarded.append(value.decode("latin-1"))
        elif key not in first:
            first[key] = value.decode("latin-1")
    scheme, _, credentials = first.get(b"authorization", "").partition(" ")
    return UpgradeRequest(
        peer=scope["client"][0] if scope["client"] else "",
        forwarded_for=forwarded,
        origin=first.get(b"origin"),
        host=first.get(b"host"),
        token=credentials.strip() or None if scheme.lower() == "bearer" else None,
    )
