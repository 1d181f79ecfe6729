"""The Starlette side of the listener: who may open a socket, in which subprotocol, and who takes over."""

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
    """What the head of an upgrade request says of who comes."""

    peer: str
    """The address of the socket's other end."""
    forwarded_for: Sequence[str]
    origin: str | None
    host: str | None
    token: str | None
    """The bearer token of the Authorization header."""


Gate = Callable[[UpgradeRequest], Rejection | Callable[[], None]]
"""Admits an arrival: returns what releases its place, or why there is none."""

Opener = Callable[[WebSocketTransport, Codec, UpgradeRequest, Callable[[], None]], None]
"""Opens a session on a link and attaches it; it owes the call of the last argument when the link is gone."""


class UpgradeEndpoint:
    """`GET /v1/ws`, as plain ASGI: Starlette's `WebSocket` around it would cost each connection 20 µs."""

    def __init__(self, gate: Gate, opener: Opener) -> None:
        """Admit by *gate*, and hand whom it admits to *opener*."""
        self._gate = gate
        self._opener = opener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept the handshake and give the open link away, or answer why not."""
        offered = scope["subprotocols"]
        arrival = _arrival(scope)
        codec = choose_codec(offered)
        admitted = self._gate(arrival) if codec is not None else _no_subprotocol()
        if codec is None or isinstance(admitted, Rejection):
            await WebSocket(scope, receive, send).send_denial_response(_response(admitted))  # type: ignore[arg-type]
            return
        await send({"type": "websocket.accept", "subprotocol": codec.subprotocol if offered else None})
        link = scope["extensions"][EXTENSION].link
        if link is None:
            admitted()
            return
        self._opener(link, codec, arrival, admitted)


def application(gate: Gate, opener: Opener, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """Return the application of the public listener: `GET /v1/ws`, and *routes*."""
    app = Starlette(
        routes=[WebSocketRoute(PATH, UpgradeEndpoint(gate, opener)), Route(PATH, _upgrade_required), *routes],
        exception_handlers={HTTPException: _refused},
    )
    app.router.default = _not_found
    return app


def choose_codec(offered: Sequence[str]) -> Codec | None:
    """Return the codec for the subprotocols *offered*: the first that we speak; JSON if there are none."""
    if not offered:
        return JSON
    return next((CODECS[name] for name in offered if name in CODECS), None)


async def _upgrade_required(_: Request) -> Response:
    response = _bad_request("this is a WebSocket endpoint: send an upgrade request", status=426)
    response.headers.update({"upgrade": "websocket", "connection": "upgrade"})
    return response


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what has no route, upgrades too: Starlette would refuse those with 403 and no word."""
    response = _bad_request(f"there is nothing here: WebSockets are at {PATH}", status=404)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await response(scope, receive, send)


async def _refused(_: Request, error: Any) -> Response:
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


def _arrival(scope: Scope) -> UpgradeRequest:
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
