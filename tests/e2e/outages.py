"""A gateway whose Redis a test takes away, holds back, and gives back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer
from tests.e2e.gateway import PATIENCE, Served, served

CONFIG = """
[channels.default]
subscribe = "anyone"
publish = "anyone"
[channels.kept]
history = 100
[channels.here]
presence = true
join_leave = true
[channels.both]
history = 100
presence = true
"""
"""Channels with a history, with presence, with both, and (`plain:…`) with neither."""


@asynccontextmanager
async def node(home: Path, url: str, *, config: str = CONFIG, **settings: str) -> AsyncIterator[Served]:
    """Run a gateway over the Redis at *url*, while this loop goes on; it must end well."""
    await asyncio.to_thread(home.mkdir, exist_ok=True)
    broker = {"BROKER__KIND": "redis", "BROKER__URL": url, "LOG__FORMAT": "json", "DRAIN__WINDOW": "0s"}
    serving = served(home, config, dev=True, **{**broker, **settings})
    with ExitStack() as stack:
        gateway = await asyncio.to_thread(stack.enter_context, serving)
        try:
            yield gateway
        finally:
            await asyncio.to_thread(stack.close)


@asynccontextmanager
async def far(home: Path, redis: RedisServer, **settings: str) -> AsyncIterator[tuple[Served, Proxy]]:
    """Run a gateway that reaches *redis* by a wire that can be pinched; it is let go at the end."""
    async with Proxy(redis.port) as proxy, node(home, proxy.url, **settings) as gateway:
        await ready(gateway)
        try:
            yield gateway, proxy
        finally:
            proxy.release()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for *condition*, which another process brings about and tells nobody."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def ready(gateway: Served, *, status: int = 200) -> None:
    """Wait until `/readyz` answers *status*."""

    async def there() -> bool:
        return (await gateway.request("GET", "/readyz")).status_code == status

    await until(there)


async def unready(gateway: Served) -> None:
    """Wait until the gateway has noticed that its Redis is away."""
    await ready(gateway, status=503)


def logged(gateway: Served, *events: str) -> list[dict[str, Any]]:
    """Return the lines of its log that tell of *events*."""
    lines = [orjson.loads(line) for line in gateway.stderr.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] in events]


def is_unavailable(told: Mapping[str, Any]) -> bool:
    """Return whether an error says that it passes, and when to try again."""
    return bool(told.get("code") == "unavailable" and told["retry_after_ms"] > 0)


async def refused(gateway: Served, channel: str) -> None:
    """Publish in vain: 503, and when to try again."""
    answer = await gateway.request("POST", "/v1/publish", {"channel": channel, "data": 1})
    assert answer.status_code == 503, answer.text
    assert is_unavailable(answer.json()["error"]), answer.text
    assert int(answer.headers["retry-after"]) >= 1
