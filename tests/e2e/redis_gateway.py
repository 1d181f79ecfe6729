"""Gateways with a Redis that a test kills, delays and restarts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer
from tests.e2e.gateway import TIMEOUT_SECONDS, GatewayProcess, gateway_process

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
async def node_with_redis(
    home: Path, url: str, *, config: str = CONFIG, **settings: str
) -> AsyncIterator[GatewayProcess]:
    """Run a gateway process with the Redis at *url*; the event loop is not blocked. It must exit cleanly."""
    await asyncio.to_thread(home.mkdir, exist_ok=True)
    broker = {"BROKER__KIND": "redis", "BROKER__URL": url, "LOG__FORMAT": "json", "DRAIN__WINDOW": "0s"}
    running_redis = gateway_process(home, config, dev=True, **{**broker, **settings})
    with ExitStack() as stack:
        gateway = await asyncio.to_thread(stack.enter_context, running_redis)
        try:
            yield gateway
        finally:
            await asyncio.to_thread(stack.close)


@asynccontextmanager
async def node_behind_proxy(
    home: Path, redis: RedisServer, **settings: str
) -> AsyncIterator[tuple[GatewayProcess, Proxy]]:
    """Run a gateway that is connected to *redis* through a proxy; the proxy is released at the end."""
    async with Proxy(redis.port) as proxy, node_with_redis(home, proxy.url, **settings) as gateway:
        await wait_ready(gateway)
        try:
            yield gateway, proxy
        finally:
            proxy.release()


async def poll_until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for *condition*, which another process fulfils without a notification."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def wait_ready(gateway: GatewayProcess, *, status: int = 200) -> None:
    """Wait until `/readyz` answers *status*."""

    async def answers() -> bool:
        return (await gateway.request("GET", "/readyz")).status_code == status

    await poll_until(answers)


async def wait_unready(gateway: GatewayProcess) -> None:
    """Wait until the gateway has noticed that its Redis is unreachable."""
    await wait_ready(gateway, status=503)


def log_lines(gateway: GatewayProcess, *events: str) -> list[dict[str, Any]]:
    """Return the lines of its log whose `event` is one of *events*."""
    lines = [orjson.loads(line) for line in gateway.stderr.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] in events]


def is_unavailable(error: Mapping[str, Any]) -> bool:
    """Return whether *error* is `unavailable` and has a `retry_after_ms`."""
    return bool(error.get("code") == "unavailable" and error["retry_after_ms"] > 0)


async def assert_publish_unavailable(gateway: GatewayProcess, channel: str) -> None:
    """Publish, and check that the answer is 503 with a Retry-After."""
    answer = await gateway.request("POST", "/v1/publish", {"channel": channel, "data": 1})
    assert answer.status_code == 503, answer.text
    assert is_unavailable(answer.json()["error"]), answer.text
    assert int(answer.headers["retry-after"]) >= 1
