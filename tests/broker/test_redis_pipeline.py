"""Deadlines of calls in a pipeline to a Redis that never answers."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.connection import RedisConnection
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pending_calls import PendingCalls
from gateway.broker.redis.connection.pipeline import Pipeline
from gateway.broker.redis.connection.server import Server
from gateway.broker.redis.connection.topology import FixedPrimary
from gateway.errors import BrokerUnavailable
from gateway.tasks import Tasks
from tests.broker.redis_proxy import Proxy

PING = ("PING", "")
LONG = 60.0
"""Seconds: longer than the test."""


@pytest_asyncio.fixture
async def pipeline(proxy: Proxy) -> AsyncIterator[Pipeline]:
    errors: list[BaseException] = []
    tasks = Tasks(errors.append)
    health = ShardHealth(Breaker(), invalidate_primary=lambda: None)
    health.lease_held()
    pipeline = Pipeline(
        RedisConnection(FixedPrimary(Server.from_url(proxy.url)), connect_timeout=LONG),
        health,
        tasks,
        PendingCalls(),
        timeout=LONG,
    )
    proxy.hold()
    yield pipeline
    await pipeline.close()
    await tasks.close()
    assert errors == []


async def test_a_call_with_an_earlier_deadline_than_those_before_it_fails_at_its_own(
    pipeline: Pipeline,
) -> None:
    now = asyncio.get_running_loop().time()
    first = pipeline.call(PING, now + LONG)
    earlier = pipeline.call(PING, now + 0.1)
    later = pipeline.call(PING, now + LONG)
    with pytest.raises(BrokerUnavailable, match="in time"):
        await earlier
    assert (first.done(), later.done(), pipeline.failures) == (False, False, 1)


async def test_each_call_fails_at_its_own_deadline(pipeline: Pipeline) -> None:
    now = asyncio.get_running_loop().time()
    calls = [pipeline.call(PING, now + seconds) for seconds in (0.1, 0.1, LONG)]
    for call in calls[:2]:
        with pytest.raises(BrokerUnavailable, match="in time"):
            await call
    assert (calls[2].done(), pipeline.failures) == (False, 2)
