"""Liveness and readiness over HTTP."""

from __future__ import annotations

import httpx
from starlette.applications import Starlette

from gateway.observe import health


async def test_readyz_answers_503_and_the_problems_while_healthz_stays_200() -> None:
    problems: list[str] = []
    transport = httpx.ASGITransport(Starlette(routes=health.routes(lambda: problems)))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        assert (await http.get("/healthz")).status_code == 200
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"ready": True, "problems": []})
        problems.append("draining")
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "problems": ["draining"]})
        assert (await http.get("/healthz")).status_code == 200
