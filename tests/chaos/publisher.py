"""A backend that publishes over HTTP, and knows of each message whether it was taken, refused, or neither."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, Self

import httpx

from tests.chaos.history import Attempted, History, Resolved, Result
from tests.e2e.gateway import HEADERS

NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Nothing of the request has left; any other failure of the transport leaves it unknown."""

DOUBTFUL = frozenset({500, 502, 504})
"""Statuses that do not say whether the message was taken; 503 says that it was not (PROTOCOL section 5)."""


def body(name: str, size: int) -> dict[str, Any]:
    """Return the data of the publish *name*, with so many characters that nothing can be mistaken for."""
    return {"name": name, "size": size, "filling": _filling(name, size)}


def name_of(data: Any) -> str:
    """Return which publish *data* is, of the first to the last character; else what it looks like."""
    match data:
        case {"name": str(name), "size": int(size)} if data == body(name, size):
            return name
    return f"{data!r:.80}"


def _filling(name: str, size: int) -> str:
    return (f"{name} " * (size // (len(name) + 1) + 1))[:size]


class Publisher:
    """One backend: one publish after the other, each under a name of its own."""

    def __init__(self, name: str, http: httpx.AsyncClient, history: History, random: Random) -> None:
        self.name = name
        self._http = http
        self._history = history
        self._random = random
        self._count = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, name: str, port: int, history: History, *, random: Random, timeout: float = 5.0
    ) -> AsyncIterator[Self]:
        """Publish through the internal listener on *port*, *timeout* seconds for each."""
        address = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(
            base_url=address, headers=HEADERS, timeout=timeout, trust_env=False, verify=False
        ) as http:
            yield cls(name, http, history, random)

    async def run(self, channels: Sequence[str], *, rate: float, size: int, until: asyncio.Event) -> None:
        """Publish about *rate* messages of *size* characters a second, to any of *channels*."""
        while not until.is_set():
            await self.publish(self._random.choice(channels), size)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._random.uniform(0, 2 / rate)):
                    await until.wait()

    async def publish(self, channel: str, size: int = 0) -> Result:
        """Publish one message and record what became of it."""
        self._count += 1
        name = f"{self.name}-{self._count}"
        self._history.record(Attempted(name, channel))
        result, answer = await self._ask({"channel": channel, "data": body(name, size)})
        self._history.record(Resolved(name, result, answer.get("message", "")))
        return result

    async def _ask(self, publication: Mapping[str, Any]) -> tuple[Result, Mapping[str, Any]]:
        try:
            response = await self._http.post("/v1/publish", json=publication)
        except NEVER_SENT:
            return Result.FAILED, {}
        except httpx.TransportError:
            return Result.UNKNOWN, {}
        if response.status_code == httpx.codes.OK:
            return Result.OK, response.json()
        return Result.UNKNOWN if response.status_code in DOUBTFUL else Result.FAILED, {}

    def __repr__(self) -> str:
        return f"<Publisher {self.name} {self._count} published>"
