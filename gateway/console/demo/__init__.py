"""The demo page of dev mode: a client on the real WebSocket, served by the internal listener.

The other files of this folder are built by `make demo` from clients/typescript/demo; do not edit them here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import PurePath
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

TYPES: Final = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
"""The media types of the files that are served, by suffix; other files of this folder are not served."""

HEADERS: Final = {
    # After an upgrade of the gateway, browsers load the new page at once.
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; worker-src 'self'; "
        # 'self' does not include other ports of this host, such as that of the public listener.
        "connect-src 'self' ws: wss:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    # These two let the page share memory with its worker.
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def routes(public_port: Callable[[], int], token: Callable[[str], str] | None) -> list[BaseRoute]:
    """Return the page at `/`, its files under `/demo/`, and what it asks for under the same prefix.

    `GET /demo/where` answers with the port of the public listener. `POST /demo/token?user=…` answers with a
    token of that user, or with null where *token* is None: the page then connects without one. Every file has
    a route of its own, created at the start: no path of a request is looked up on the disk.
    """

    async def where(_: Request) -> Response:
        return JSONResponse({"port": public_port()}, headers=HEADERS)

    async def sign(request: Request) -> Response:
        try:
            signed = token and token(request.query_params.get("user", ""))
        except ValueError as error:
            return JSONResponse({"error": {"message": str(error)}}, status_code=422, headers=HEADERS)
        return JSONResponse({"token": signed}, headers=HEADERS | {"cache-control": "no-store"})

    files = {entry.name: entry for entry in resources.files(__name__).iterdir()}
    served = {name: _file_endpoint(name, file.read_bytes()) for name, file in files.items() if _type(name)}
    return [
        Route("/", served["index.html"]),
        # Browsers request this for pages that name no icon, such as /metrics.
        Route("/favicon.ico", served["icon.svg"]),
        Route("/demo/where", where),
        Route("/demo/token", sign, methods=["POST"]),
        *(Route(f"/demo/{name}", answer) for name, answer in sorted(served.items())),
    ]


def _file_endpoint(name: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(content, media_type=_type(name), headers=HEADERS)

    return answer


def _type(name: str) -> str | None:
    return TYPES.get(PurePath(name).suffix)
