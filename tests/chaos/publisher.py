"""A backend that publishes over HTTP, and knows of each message whether it was taken, refused, or neither."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
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

DOUBTFUL_IN_A_CLUSTER = DOUBTFUL | {503}
"""Redis may have taken what the node was not told of in time (docs/redis.md)."""

AGAIN = DOUBTFUL_IN_A_CLUSTER
"""Statuses after which the same may be taken."""

PAUSE = 0.3
"""Seconds before the same is published again, at most."""


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

    def __init__(
        self,
        name: str,
        http: httpx.AsyncClient,
        ports: Sequence[int],
        history: History,
        random: Random,
        *,
        insists: float = 0.0,
        doubtful: Collection[int] = DOUBTFUL,
    ) -> None:
        """Publish by *ports*; what fails leads to the next one.

        Who *insists*, that many seconds at most, gives each message a key and publishes it under the same one
        until it is taken or refused; else each is published once. After a *doubtful* status it is not known
        what became of it.
        """
        self.name = name
        self.statuses: Counter[int] = Counter()
        """How often each was answered; 0 for no answer."""
        self._http = http
        self._ports = tuple(ports)
        self._history = history
        self._random = random
        self._insists = insists
        self._doubtful = doubtful
        self._count = 0
        self._failures = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        name: str,
        ports: Sequence[int],
        history: History,
        *,
        random: Random,
        timeout: float = 5.0,
        insists: float = 0.0,
        doubtful: Collection[int] = DOUBTFUL,
    ) -> AsyncIterator[Self]:
        """Publish through the internal listeners on *ports*, *timeout* seconds for each attempt."""
        async with httpx.AsyncClient(headers=HEADERS, timeout=timeout, trust_env=False, verify=False) as http:
            yield cls(name, http, ports, history, random, insists=insists, doubtful=doubtful)

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
        publication = {"channel": channel, "data": body(name, size)}
        if self._insists:
            result, answer = await self._insist({**publication, "key": name})
        else:
            result, answer, _ = await self._ask(publication)
        self._history.record(Resolved(name, result, answer.get("message", "")))
        return result

    async def _insist(self, publication: Mapping[str, Any]) -> tuple[Result, Mapping[str, Any]]:
        """Ask until it is known what became of it; what was in doubt once, only a 200 settles."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + self._insists
        doubt = False
        while True:
            result, answer, settled = await self._ask(publication)
            doubt |= result is Result.UNKNOWN
            if settled or loop.time() > patience:
                return Result.UNKNOWN if doubt and result is Result.FAILED else result, answer
            await asyncio.sleep(self._random.uniform(0, PAUSE))

    async def _ask(self, publication: Mapping[str, Any]) -> tuple[Result, Mapping[str, Any], bool]:
        """Ask one node; return what is known then, the answer, and whether it is final."""
        port = self._ports[self._failures % len(self._ports)]
        try:
            response = await self._http.post(f"http://127.0.0.1:{port}/v1/publish", json=publication)
        except (httpx.TransportError, OSError, AttributeError) as error:
            # Not only httpx's own: anyio asks a socket for its peer that has been reset since, or is no more.
            self.statuses[0] += 1
            self._failures += 1
            return Result.FAILED if isinstance(error, NEVER_SENT) else Result.UNKNOWN, {}, False
        status = response.status_code
        self.statuses[status] += 1
        if status == httpx.codes.OK:
            return Result.OK, response.json(), True
        self._failures += 1
        return Result.UNKNOWN if status in self._doubtful else Result.FAILED, {}, status not in AGAIN

    def __repr__(self) -> str:
        return f"<Publisher {self.name} {self._count} published>"
