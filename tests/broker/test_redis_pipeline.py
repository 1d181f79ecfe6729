"""Calls over one connection to a Redis that takes them and says nothing: each is told in its own time."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.connection import RedisConnection
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pipeline import Pipeline
from gateway.broker.redis.connection.servers import Server
from gateway.broker.redis.connection.topology import FixedPrimary
from gateway.errors import BrokerUnavailable
from gateway.tasks import Tasks
from tests.broker.redis_proxy import Proxy

PING = ("PING", "")
LONG = 60.0
"""Seconds: nobody waits for so long."""


@pytest_asyncio.fixture
async def line(proxy: Proxy) -> AsyncIterator[Pipeline]:
    errors: list[BaseException] = []
    tasks = Tasks(errors.append)
    health = ShardHealth(Breaker(), invalidate_primary=lambda: None)
    health.lease_held()
    line = Pipeline(
        RedisConnection(FixedPrimary(Server.from_url(proxy.url)), connect_timeout=LONG),
        health,
        tasks,
        timeout=LONG,
    )
    proxy.hold()
    yield line
    await line.close()
    await tasks.close()
    assert errors == []


async def test_a_call_for_which_less_time_is_left_than_for_those_before_it_does_not_wait_for_theirs(
    line: Pipeline,
) -> None:
    now = asyncio.get_running_loop().time()
    before = line.call(PING, now + LONG)
    again = line.call(PING, now + 0.1)
    behind = line.call(PING, now + LONG)
    with pytest.raises(BrokerUnavailable, match="in time"):
        await again
    assert (before.done(), behind.done(), line.failures) == (False, False, 1)


async def test_each_call_fails_at_its_own_time(line: Pipeline) -> None:
    now = asyncio.get_running_loop().time()
    calls = [line.call(PING, now + seconds) for seconds in (0.1, 0.1, LONG)]
    for call in calls[:2]:
        with pytest.raises(BrokerUnavailable, match="in time"):
            await call
    assert (calls[2].done(), line.failures) == (False, 2)
