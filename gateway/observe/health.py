"""Is this node alive, and is it ready."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route


def routes(problems: Callable[[], Sequence[str]]) -> list[BaseRoute]:
    """Return `/healthz`, 200 while the process answers, and `/readyz`, 503 while there are *problems*."""

    async def readyz(_: Request) -> Response:
        found = list(problems())
        return JSONResponse({"ready": not found, "problems": found}, 503 if found else 200)

    return [healthz(), Route("/readyz", readyz)]


def healthz() -> Route:
    """Return `/healthz` alone."""

    async def answer(_: Request) -> Response:
        return JSONResponse({"alive": True})

    return Route("/healthz", answer)
