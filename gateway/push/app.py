"""The internal listener's ASGI application: routes, keys, errors, documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Security
from fastapi.security import HTTPBearer
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import gateway
from gateway.push import docs_page
from gateway.push.body import rejection
from gateway.push.errors import RENDERERS, RequestRejected, http_rejection
from gateway.push.keys import Keys
from gateway.push.lookups import Lookups
from gateway.push.openapi import with_bodies
from gateway.push.publisher import Publisher
from gateway.push.routes import LookupRoutes, PublishRoutes
from gateway.push.service import Service
from protocol.errors import ErrorCode

_DESCRIPTION = """\
How backends push to clients, and look at who is connected. Bodies are JSON or MessagePack, both ways.
A 200 on a publish means: stored in the channel's history, where it has one, and handed to every node that has
a subscriber.
"""


class PushApi(FastAPI):
    """FastAPI, whose document also knows the bodies that we decode ourselves."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return with_bodies(super().openapi())


class Bearer(HTTPBearer):
    """The security scheme of every path under /v1."""

    def __init__(self, keys: Keys) -> None:
        super().__init__(scheme_name="key", description="One of `push.keys` of the gateway's configuration.")
        self._keys = keys

    async def __call__(self, request: Request) -> None:  # type: ignore[override]
        """Refuse a request without a valid key."""
        given = request.headers.get("authorization")
        if not self._keys.admit(None if given is None else given.encode("latin-1")):
            raise RequestRejected(
                401,
                ErrorCode.UNAUTHORIZED,
                "send one of the gateway's push keys in `Authorization: Bearer`",
                headers={"www-authenticate": 'Bearer realm="fanway"'},
            )


class Shell:
    """Around everything: routes by the path as it was sent, and answers what nobody foresaw.

    Users may be called anything, so `%2F` in a path must not become a slash before the path is taken apart.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and answer 500 if that fails."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if b"%" in scope.get("raw_path", b""):
            scope["path"] = scope["raw_path"].decode("ascii")
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception as error:
            rejected = http_rejection(error)
            if started:
                raise
            await rejection(Request(scope), rejected)(scope, receive, send)


def create(
    service: Service,
    *,
    routes: Sequence[BaseRoute] = (),
    demo: Sequence[BaseRoute] = (),
) -> FastAPI:
    """Return the application of the internal listener.

    *routes* (health, metrics) and *demo* (in dev mode, the page at `/`) need no key; all under /v1 does.
    """
    app = PushApi(
        title="Fanway push API",
        version=gateway.__version__,
        description=_DESCRIPTION,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        routes=[*routes, *docs_page.routes("/docs", "/openapi.json"), *demo],
        exception_handlers=dict.fromkeys(RENDERERS, _reject),
    )
    app.add_middleware(Shell)
    router = APIRouter(prefix="/v1", dependencies=[Security(Bearer(service.keys))])
    PublishRoutes(Publisher(service), body_size=service.body_size).add_to(router)
    LookupRoutes(Lookups(service), body_size=service.body_size).add_to(router)
    app.include_router(router)
    return app


async def _reject(request: Request, error: Exception) -> Response:
    return rejection(request, http_rejection(error))
