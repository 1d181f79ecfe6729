"""The demo page of dev mode: a client on the real WebSocket, served by the internal listener."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}


def routes(public_port: Callable[[], int]) -> list[BaseRoute]:
    """Return the page at `/`, its files under `/demo/`, and where the public listener listens."""

    async def where(_: Request) -> Response:
        return JSONResponse({"port": public_port()})

    return [
        Route("/", _file("index.html")),
        Route("/demo/where", where),
        Route("/demo/demo.js", _file("demo.js")),
        Route("/demo/demo.css", _file("demo.css")),
    ]


def _file(name: str) -> Callable[[Request], object]:
    content = resources.files(__name__).joinpath(name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=TYPES[name.rpartition(".")[2]])

    return answer
