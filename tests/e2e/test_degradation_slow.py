"""Redis is slow or hangs: what does not need it does not wait, what needs it fails in time."""

import asyncio
from pathlib import Path
from typing import Any

from tests.broker.redis_server import RedisServer
from tests.e2e.clients import Client
from tests.e2e.gateway import publish
from tests.e2e.redis_gateway import assert_publish_unavailable, is_unavailable, node_behind_proxy, wait_ready


async def test_slow_redis_does_not_delay_what_does_not_need_it(redis: RedisServer, tmp_path: Path) -> None:
    async with (
        node_behind_proxy(tmp_path / "node", redis) as (gateway, proxy),
        Client.open(gateway.public) as ann,
        Client.open(gateway.public) as bob,
    ):
        await ann.call("subscribe", channel="kept:a")
        sent = await publish(gateway.internal, "kept:a", "before")
        assert (await ann.next_push("message"))["data"] == "before"
        proxy.hold_answers()
        held = asyncio.ensure_future(ann.call("publish", channel="kept:a", data="held"))
        backend = asyncio.ensure_future(publish(gateway.internal, "kept:b", "held"))
        # All of this while Redis owes both of them an answer.
        for _ in range(20):
            assert (await bob.call("ping"))["type"] == "pong"
        joined = await bob.call("subscribe", channel="kept:a", since=sent["message"])
        assert (joined["type"], joined["recovered"], joined["messages"]) == ("subscribed", True, [])
        async with Client.open(gateway.public) as carl:
            assert (await carl.call("ping"))["type"] == "pong"
        assert (await gateway.request("GET", "/healthz")).status_code == 200
        assert not held.done()
        assert not backend.done()
        proxy.release()
        assert (await held)["type"] == "published"
        await backend
        for client in (ann, bob):
            assert (await client.next_push("message"))["data"] == "held"


async def test_slow_redis_times_out_presence_first_and_history_last(
    redis: RedisServer, tmp_path: Path
) -> None:
    """One second, two, three: nothing is released before the last of them has its answer."""
    order: list[str] = []

    async def ask(client: Client, name: str, **fields: Any) -> None:
        assert is_unavailable(await client.call(name, **fields)), name
        order.append(name)

    async with (
        node_behind_proxy(tmp_path / "node", redis, BROKER__LEASE="60s") as (gateway, proxy),
        Client.open(gateway.public, subs={"both:a": {}}) as ann,
        Client.open(gateway.public, subs={"both:a": {}}) as bob,
        Client.open(gateway.public, subs={"both:a": {}}) as carl,
        Client.open(gateway.public) as dan,
    ):
        # Over connections that are there: one that cannot be made fails sooner.
        await publish(gateway.internal, "both:a", 0)
        assert (await carl.call("history", channel="both:a"))["type"] == "history"
        proxy.hold_answers()
        async with asyncio.TaskGroup() as asking:
            asking.create_task(ask(carl, "history", channel="both:a"))
            asking.create_task(ask(ann, "publish", channel="both:a", data=1))
            asking.create_task(ask(bob, "presence", channel="both:a"))
            asking.create_task(ask(dan, "subscribe", channel="kept:b"))
        assert order[:2] == ["presence", "publish"]
        assert set(order[2:]) == {"history", "subscribe"}
        for client in (ann, bob, carl, dan):
            assert (await client.call("ping"))["type"] == "pong"
        proxy.release()
        await wait_ready(gateway)
        assert (await dan.call("subscribe", channel="kept:b"))["type"] == "subscribed"


async def test_hanging_redis_opens_the_breaker(redis: RedisServer, tmp_path: Path) -> None:
    async with node_behind_proxy(tmp_path / "node", redis, BROKER__LEASE="60s") as (gateway, proxy):
        assert (await gateway.metrics())["broker_breakers_open"] == 0
        await publish(gateway.internal, "kept:a", 0)
        proxy.hold()
        # What travels together times out together: five in a row.
        commands = [{"publish": {"channel": f"kept:{number}", "data": 1}} for number in range(5)]
        answer = await gateway.request("POST", "/v1/batch", {"commands": commands})
        assert [each["error"]["code"] for each in answer.json()["results"]] == ["unavailable"] * 5
        figures = await gateway.metrics()
        assert (figures["broker_breakers_open"], figures["broker_breaker_opened_total"]) == (1, 1)
        assert figures["broker_up"] == 0
        assert figures["broker_leases"] == 1, "nobody else knows of it yet"
        for _ in range(100):
            await assert_publish_unavailable(gateway, "kept:a")
        after = await gateway.metrics()
        assert after["broker_calls_total"] - figures["broker_calls_total"] < 100, "not sent, not waited for"
        proxy.release()
        await wait_ready(gateway)
        await publish(gateway.internal, "kept:a", 1)
        assert (await gateway.metrics())["broker_breakers_open"] == 0
