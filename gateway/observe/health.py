"""Liveness and readiness of a node: `/healthz` and `/readyz`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route


def routes(problems: Callable[[], Sequence[str]]) -> list[BaseRoute]:
    """Return `/healthz`, always 200, and `/readyz`, 503 while *problems* returns any."""

    async def readyz(_: Request) -> Response:
        found = list(problems())
        return JSONResponse({"ready": not found, "problems": found}, 503 if found else 200)

    return [liveness_route(), Route("/readyz", readyz)]


def liveness_route() -> Route:
    """Return `/healthz`, which answers 200 as long as the process runs."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"alive": True})

    return Route("/healthz", healthz)
