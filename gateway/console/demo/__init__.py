"""The demo page of dev mode: a client on the real WebSocket, served by the internal listener."""

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
    # 'self' does not include other ports of this host, which connect-src must allow.
    "content-security-policy": (
        "default-src 'self'; connect-src ws: http: 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
}


def routes(public_port: Callable[[], int]) -> list[BaseRoute]:
    """Return the page at `/`, its files under `/demo/`, and at `/demo/where` the port of the public listener.

    Every file has a route of its own, created at the start: no path of a request is looked up on the disk.
    """

    async def where(_: Request) -> Response:
        return JSONResponse({"port": public_port()}, headers=HEADERS)

    files = {entry.name: entry for entry in resources.files(__name__).iterdir()}
    served = {name: _file_endpoint(name, file.read_bytes()) for name, file in files.items() if _type(name)}
    return [
        Route("/", served["index.html"]),
        # Browsers request this for pages that name no icon, such as /metrics.
        Route("/favicon.ico", served["icon.svg"]),
        Route("/demo/where", where),
        *(Route(f"/demo/{name}", answer) for name, answer in sorted(served.items())),
    ]


def _file_endpoint(name: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(content, media_type=_type(name), headers=HEADERS)

    return answer


def _type(name: str) -> str | None:
    return TYPES.get(PurePath(name).suffix)
