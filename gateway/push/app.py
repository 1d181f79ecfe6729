"""The internal listener's ASGI application: routes, keys, errors, documentation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Security
from fastapi.security import HTTPBearer
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import gateway
from gateway.access.origins import hosts_are_loopback
from gateway.errors import Rejection
from gateway.push import docs_page
from gateway.push.body import RequestBodies, encode_rejection
from gateway.push.context import PushContext
from gateway.push.errors import RENDERERS, RequestRejected, http_rejection
from gateway.push.lookups import Lookups
from gateway.push.openapi import with_bodies
from gateway.push.publisher import RequestPublisher
from gateway.push.routes import LookupRoutes, PublishRoutes, UserCommandRoutes
from gateway.push.user_commands import UserCommandSender
from gateway.transport.http.rejections import render
from protocol.errors import ErrorCode

_DESCRIPTION = """\
How backends push to clients, and look at who is connected. Bodies are JSON or MessagePack, both ways.
A 200 on a publish means: stored in the channel's history, if it has one, and handed to every node that has
a subscriber.
"""


_KEYS = "One of `push.keys` of the gateway's configuration."
_DEV_KEYS = "In dev mode: {key}. " + _KEYS
_DEV_DESCRIPTION = """
**Dev mode**: the push key is `{key}`. Choose *Authorize*, enter it, then try any request below.
"""

_MISDIRECTED = render(
    Rejection(
        ErrorCode.PERMISSION_DENIED,
        "in dev mode only hosts of this machine are answered: use http://localhost, or start without --dev",
    ),
    status=421,
)
"""RFC 9110 section 15.5.20: Misdirected Request."""


class PushApi(FastAPI):
    """FastAPI, whose OpenAPI document also describes the bodies that the routes decode themselves."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return with_bodies(super().openapi())


class PushKeySecurity(HTTPBearer):
    """The security scheme of every path under /v1."""

    def __init__(self, context: PushContext, description: str) -> None:
        super().__init__(scheme_name="key", description=description)
        self._keys = context.keys
        self._limits = context.limits
        self._on_refused = context.on_key_refused

    async def __call__(self, request: Request) -> AsyncIterator[None]:  # type: ignore[override]
        """Count the request as in progress until it is answered.

        Raises:
            RequestRejected: It has no valid key.
            ProtocolError: It exceeds the limits.
        """
        request.state.push_key = self._number_of_key(request)
        self._limits.require_place()
        self._limits.require_rate(request.state.push_key, 1)
        self._limits.in_progress += 1
        try:
            yield
        finally:
            self._limits.in_progress -= 1

    def _number_of_key(self, request: Request) -> int:
        given = request.headers.get("authorization")
        number = self._keys.number_of(None if given is None else given.encode("latin-1"))
        if number is None:
            self._on_refused(request.client.host if request.client else "")
            raise RequestRejected(
                401,
                ErrorCode.UNAUTHORIZED,
                "send one of the gateway's push keys in `Authorization: Bearer`",
                headers={"www-authenticate": 'Bearer realm="fanway"'},
            )
        return number


class RawPathMiddleware:
    """Routes by the path as it was sent, and answers 500 for errors that no handler expects.

    A user's name may contain anything, so `%2F` must not become a slash before the path is split.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and answer 500 if that fails before an answer has begun."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if b"%" in scope.get("raw_path", b""):
            scope["path"] = scope["raw_path"].decode("ascii")
        answer_begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal answer_begun
            answer_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            rejection = http_rejection(error)
            if answer_begun:
                raise
            await encode_rejection(Request(scope), rejection)(scope, receive, send)


class LoopbackHostMiddleware:
    """Answers 421 to requests for other hosts than this machine: in dev mode everybody knows the key.

    A page whose name was made to resolve to 127.0.0.1 (DNS rebinding) sends that name.
    """

    def __init__(self, app: ASGIApp, on_refused: Callable[[str, str], None]) -> None:
        self._app = app
        self._on_refused = on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if its Host is loopback."""
        hosts = [value for name, value in scope.get("headers", ()) if name == b"host"]
        if scope["type"] == "http" and not hosts_are_loopback(hosts):
            address = scope["client"][0] if scope["client"] else ""
            self._on_refused(b", ".join(hosts).decode("latin-1"), address)
            await encode_rejection(Request(scope), _MISDIRECTED)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def create_app(
    context: PushContext,
    *,
    routes: Sequence[BaseRoute] = (),
    demo: Sequence[BaseRoute] = (),
    dev_key: str = "",
) -> FastAPI:
    """Return the application of the internal listener.

    *routes* (health, metrics) and *demo* (in dev mode, the page at `/`) need no key; all under /v1 does.
    *dev_key* is the push key of dev mode, which the documentation then names.
    """
    app = PushApi(
        title="Fanway push API",
        version=gateway.__version__,
        description=_DESCRIPTION + (_DEV_DESCRIPTION.format(key=dev_key) if dev_key else ""),
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        routes=[*routes, *docs_page.routes("/docs", "/openapi.json"), *(demo or [_index_route()])],
        exception_handlers=dict.fromkeys(RENDERERS, _reject),
    )
    app.add_middleware(RawPathMiddleware)
    if context.loopback_hosts_only:
        app.add_middleware(LoopbackHostMiddleware, on_refused=context.on_host_refused)
    description = _DEV_KEYS.format(key=dev_key) if dev_key else _KEYS
    keys = PushKeySecurity(context, description)
    router = APIRouter(prefix="/v1", dependencies=[Security(keys)])
    bodies = RequestBodies(max_size=context.body_size, budget=context.bodies)
    PublishRoutes(RequestPublisher(context), bodies, context.limits).add_to(router)
    LookupRoutes(Lookups(context)).add_to(router)
    UserCommandRoutes(UserCommandSender(context), bodies).add_to(router)
    app.include_router(router)
    return app


def _index_route() -> Route:
    """Return what is at `/` without the demo page: where everything else is."""
    paths = {"docs": "/docs", "openapi": "/openapi.json", "health": "/readyz", "metrics": "/metrics"}
    index = {"name": "fanway", "version": gateway.__version__, **paths}

    async def show(_: Request) -> Response:
        return JSONResponse(index)

    return Route("/", show)


async def _reject(request: Request, error: Exception) -> Response:
    return encode_rejection(request, http_rejection(error))
