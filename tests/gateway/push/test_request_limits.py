"""429: too many requests in progress, or too many messages of one key."""

import asyncio
from typing import Any

import httpx
import pytest

from gateway.clock import FakeClock
from gateway.push.request_limits import RequestLimits
from tests.gateway.push.push_kit import KEY, OLD_KEY, WaitingBroker, make_api

MESSAGE = {"channel": "chat", "data": 1}


def require_rate_limited(answer: httpx.Response, retry_after: str) -> None:
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "rate_limited"
    assert answer.headers["retry-after"] == retry_after
    assert answer.json()["error"]["retry_after_ms"] <= int(retry_after) * 1_000


async def test_requests_beyond_those_in_progress_are_rejected_at_once() -> None:
    limits = RequestLimits(concurrency=2)
    broker = WaitingBroker()
    api = await make_api(broker=broker, limits=limits)
    async with api.client() as client:
        waiting = [asyncio.create_task(client.post("/v1/publish", json=MESSAGE)) for _ in range(2)]
        for _ in waiting:
            await broker.arrived.acquire()
        assert limits.statistics()["in_progress"] == 2
        require_rate_limited(await client.post("/v1/publish", json=MESSAGE), "1")
        require_rate_limited(await client.get("/v1/channels"), "1")
        broker.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
        assert (await client.post("/v1/publish", json=MESSAGE)).status_code == 200
        assert (await client.post("/v1/publish", json={})).status_code == 422
    assert limits.statistics() == {"in_progress": 0, "rejected_concurrency": 2, "rejected_rate": 0}


async def test_a_request_without_a_key_takes_no_place() -> None:
    limits = RequestLimits(concurrency=1, rate=1.0)
    api = await make_api(limits=limits)
    async with api.client(authorization="Bearer wrong") as client:
        for _ in range(3):
            assert (await client.post("/v1/publish", json=MESSAGE)).status_code == 401
    async with api.client() as client:
        assert (await client.post("/v1/publish", json=MESSAGE)).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/broadcast", {"channels": [f"c{n}" for n in range(1_000)], "data": 1}),
        ("/v1/notify", {"users": [f"u{n}" for n in range(1_000)], "data": 1}),
        ("/v1/batch", {"commands": [{"publish": MESSAGE}] * 1_000}),
    ],
)
async def test_the_rate_of_a_key_counts_every_message(path: str, body: dict[str, Any]) -> None:
    clock = FakeClock()
    limits = RequestLimits(rate=10.0, clock=clock)
    api = await make_api(limits=limits)
    async with api.client() as client, api.client(authorization=f"Bearer {OLD_KEY}") as other:
        assert (await client.post(path, json=body)).status_code == 200
        require_rate_limited(await client.post("/v1/publish", json=MESSAGE), "1")
        require_rate_limited(await client.get("/v1/nodes"), "1")
        assert (await other.post(path, json=body)).status_code == 200, "another key"
        clock.advance(50.0)
        published = len(api.node.data())
        require_rate_limited(await client.post(path, json=body), "50")
        assert len(api.node.data()) == published, "nothing of it was published"
        clock.advance(50.0)
        assert (await client.post("/v1/publish", json=MESSAGE)).status_code == 200
    assert limits.statistics()["rejected_rate"] == 3


async def test_the_limits_are_off_or_generous_by_default() -> None:
    api = await make_api()
    assert KEY
    async with api.client() as client:
        batch = {"commands": [{"publish": MESSAGE}] * 1_000}
        assert [(await client.post("/v1/batch", json=batch)).status_code for _ in range(3)] == [200] * 3
