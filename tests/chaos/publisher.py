"""A backend that publishes over HTTP, and records of each message whether it was taken or rejected."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, Self

import httpx

from tests.chaos.history import History, PublishAttempted, PublishResolved, PublishResult
from tests.e2e.gateway import HEADERS

NEVER_SENT_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Nothing of the request was sent; after any other failure of the transport the result is unknown."""

UNKNOWN_RESULT_STATUSES = frozenset({500, 502, 504})
"""Statuses that do not say whether the message was taken; 503 says that it was not (docs/push-api.md)."""

UNKNOWN_RESULT_STATUSES_WITH_REDIS = UNKNOWN_RESULT_STATUSES | {503}
"""Redis may have taken what it did not confirm to the node in time (docs/redis.md)."""

RETRIED_STATUSES = UNKNOWN_RESULT_STATUSES_WITH_REDIS
"""Statuses after which the same publish may succeed."""

MAX_RETRY_PAUSE_SECONDS = 0.3


def publish_data(name: str, size: int) -> dict[str, Any]:
    """Return the data of the publish *name*: with its name in each of *size* characters of filling."""
    return {"name": name, "size": size, "filling": _filling(name, size)}


def publish_name_of(data: Any) -> str:
    """Return the name of the publish whose data equals *data*; else the start of the repr of *data*."""
    match data:
        case {"name": str(name), "size": int(size)} if data == publish_data(name, size):
            return name
    return f"{data!r:.80}"


def _filling(name: str, size: int) -> str:
    return (f"{name} " * (size // (len(name) + 1) + 1))[:size]


class Publisher:
    """One backend: one publish after the other, each with a name of its own.

    Args:
        name: The prefix of the names of its publishes.
        http: What it sends requests with.
        ports: The internal listeners that it uses: each failure leads to the next one.
        history: Where it records each publish and its result.
        random: Chooses channels and pauses.
        retry_seconds: How long it repeats each publish under one idempotency key, until it is taken or
            rejected. With 0, each publish is sent once and without a key.
        unknown_statuses: Statuses after which the result is unknown.
    """

    def __init__(
        self,
        name: str,
        http: httpx.AsyncClient,
        ports: Sequence[int],
        history: History,
        random: Random,
        *,
        retry_seconds: float = 0.0,
        unknown_statuses: Collection[int] = UNKNOWN_RESULT_STATUSES,
    ) -> None:
        self.name = name
        self.statuses: Counter[int] = Counter()
        """How often a request was answered with each status; 0 for no answer."""
        self._http = http
        self._ports = tuple(ports)
        self._history = history
        self._random = random
        self._retry_seconds = retry_seconds
        self._unknown_statuses = unknown_statuses
        self._published = 0
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
        timeout_seconds: float = 5.0,
        retry_seconds: float = 0.0,
        unknown_statuses: Collection[int] = UNKNOWN_RESULT_STATUSES,
    ) -> AsyncIterator[Self]:
        """Open a publisher whose requests take *timeout_seconds* at most; the other arguments as above."""
        async with httpx.AsyncClient(
            headers=HEADERS, timeout=timeout_seconds, trust_env=False, verify=False
        ) as http:
            yield cls(
                name,
                http,
                ports,
                history,
                random,
                retry_seconds=retry_seconds,
                unknown_statuses=unknown_statuses,
            )

    async def run(self, channels: Sequence[str], *, rate: float, size: int, until: asyncio.Event) -> None:
        """Publish about *rate* messages of *size* characters a second, each to one of *channels*."""
        while not until.is_set():
            await self.publish(self._random.choice(channels), size)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._random.uniform(0, 2 / rate)):
                    await until.wait()

    async def publish(self, channel: str, size: int = 0) -> PublishResult:
        """Publish one message and record its result."""
        self._published += 1
        name = f"{self.name}-{self._published}"
        self._history.record(PublishAttempted(name, channel))
        body = {"channel": channel, "data": publish_data(name, size)}
        if self._retry_seconds:
            result, answer = await self._request_until_settled({**body, "key": name})
        else:
            result, answer, _ = await self._request(body)
        self._history.record(PublishResolved(name, result, answer.get("message", "")))
        return result

    async def _request_until_settled(
        self, body: Mapping[str, Any]
    ) -> tuple[PublishResult, Mapping[str, Any]]:
        """Repeat the request until its result is known; after one unknown result only a 200 is certain."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._retry_seconds
        ever_unknown = False
        while True:
            result, answer, settled = await self._request(body)
            ever_unknown |= result is PublishResult.UNKNOWN
            if settled or loop.time() > deadline:
                uncertain = ever_unknown and result is PublishResult.FAILED
                return PublishResult.UNKNOWN if uncertain else result, answer
            await asyncio.sleep(self._random.uniform(0, MAX_RETRY_PAUSE_SECONDS))

    async def _request(self, body: Mapping[str, Any]) -> tuple[PublishResult, Mapping[str, Any], bool]:
        """Send one request; return what is known then, the answer, and whether it is final."""
        port = self._ports[self._failures % len(self._ports)]
        try:
            response = await self._http.post(f"http://127.0.0.1:{port}/v1/publish", json=body)
        except (httpx.TransportError, OSError, AttributeError) as error:
            # Not only httpx's own: anyio asks a socket for its peer after the socket was reset or closed.
            self.statuses[0] += 1
            self._failures += 1
            never_sent = isinstance(error, NEVER_SENT_ERRORS)
            return PublishResult.FAILED if never_sent else PublishResult.UNKNOWN, {}, False
        status = response.status_code
        self.statuses[status] += 1
        if status == httpx.codes.OK:
            return PublishResult.OK, response.json(), True
        self._failures += 1
        unknown = status in self._unknown_statuses
        return (
            PublishResult.UNKNOWN if unknown else PublishResult.FAILED,
            {},
            status not in RETRIED_STATUSES,
        )

    def __repr__(self) -> str:
        return f"<Publisher {self.name} {self._published} published>"
