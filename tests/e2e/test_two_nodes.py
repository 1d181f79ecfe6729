"""Two gateways with one Redis: each of them serves any client, and clients resume when one of them dies."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from tests.broker.redis_server import RedisServer, running_redis
from tests.e2e.clients import JSON, MSGPACK, Client
from tests.e2e.gateway import TIMEOUT_SECONDS, GatewayProcess, publish, token, two_nodes

LEASE, LONG = "2s", "1m"
"""One that is to be over, and one that outlasts a test on any machine."""


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def over(
    redis: RedisServer, homes: pytest.TempPathFactory, lease: str = LONG
) -> AbstractContextManager[tuple[GatewayProcess, GatewayProcess]]:
    return two_nodes(homes, BROKER__URL=redis.url, BROKER__LEASE=lease, DRAIN__WINDOW="0s")


@pytest.fixture
def nodes(
    redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    with over(redis, tmp_path_factory) as both:
        yield both


async def test_subscribers_of_different_nodes_see_one_order(
    nodes: tuple[GatewayProcess, GatewayProcess],
) -> None:
    one, two = nodes
    async with Client.open(one.public) as ann, Client.open(two.public, subprotocol=MSGPACK) as bob:
        for client in (ann, bob):
            await client.call("subscribe", channel="room")
        ids = [
            (await publish((one, two)[number % 2].internal, "room", number))["message"]
            for number in range(20)
        ]
        assert [message_id.partition("-")[0] for message_id in ids] == [str(n) for n in range(1, 21)]
        for client in (ann, bob):
            received = [await client.next_push("message") for _ in ids]
            assert [message["message"] for message in received] == ids
            assert [message["data"] for message in received] == list(range(20))


async def test_client_of_a_killed_node_resumes_at_the_other_node(
    redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with over(redis, tmp_path_factory, LEASE) as nodes:
        await resumed(*nodes)


async def resumed(one: GatewayProcess, two: GatewayProcess) -> None:
    async with Client.open(two.public, subprotocol=JSON) as watcher:
        async with Client.open(one.public) as ann:
            await watcher.call("subscribe", channel="room")
            await ann.call("subscribe", channel="room")
            assert (await watcher.next_push("join"))["member"]["connection"]
            seen = await publish(two.internal, "room", "before")
            assert (await ann.next_push("message"))["message"] == seen["message"]
            one.kill()
            missed = [await publish(two.internal, "room", n) for n in range(3)]
        async with Client.open(two.public, subs={"room": {"since": seen["message"]}}) as back:
            restored = back.connected["subs"]["room"]
            assert restored["recovered"] is True
            assert [message["message"] for message in restored["messages"]] == [
                each["message"] for each in missed
            ]
            # The dead node's member leaves within its lease, once, by Redis' own clock.
            async with asyncio.timeout(TIMEOUT_SECONDS):
                gone = await watcher.next_push("leave")
            assert gone["channel"] == "room"
            present = await watcher.call("presence", channel="room")
            assert present["connections"] == 2


async def test_api_reaches_connections_of_a_user_on_every_node(
    nodes: tuple[GatewayProcess, GatewayProcess],
) -> None:
    one, two = nodes
    ann = token("ann", now=time.time())
    async with Client.open(one.public, token=ann) as here, Client.open(two.public, token=ann) as there:
        found = (await one.request("GET", "/v1/users/ann")).json()["connections"]
        assert sorted(each["node"] for each in found) == ["one", "two"]
        await one.request("POST", "/v1/users/ann/subscribe", {"channel": "news"})
        for client in (here, there):
            assert (await client.next_push("subscribed"))["channel"] == "news"
        reply = (await two.request("POST", "/v1/notify", {"users": ["ann"], "data": "hello"})).json()
        assert reply["results"][0]["message"]
        for client in (here, there):
            assert (await client.next_push("message"))["data"] == "hello"
        answer = await two.request("POST", "/v1/users/ann/disconnect")
        assert answer.json() == {"connections": 2}
        for client in (here, there):
            assert (await client.expect_close()).code == 4005


async def test_answers_name_the_hanging_node_whose_data_is_missing(
    redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with over(redis, tmp_path_factory) as (one, hangs):
        async with Client.open(hangs.public, token=token("ann", now=time.time()), subs={"room": {}}):
            whole = (await one.request("GET", "/v1/channels/room")).json()
            assert (whole["subscribers"], "partial" in whole) == (1, False)
            hangs.send_signal(signal.SIGSTOP)
            try:
                paths = ("users/ann", "channels/room", "channels")
                user, room, listed = [(await one.request("GET", f"/v1/{path}")).json() for path in paths]
            finally:
                hangs.send_signal(signal.SIGCONT)
        assert user == {"user": "ann", "connections": [], "partial": True}
        assert (room["subscribers"], room["users"], room["partial"]) == (0, 1, True)
        assert listed == {"channels": [], "partial": True}


async def test_without_redis_connections_stay_and_publishes_fail_fast(
    nodes: tuple[GatewayProcess, GatewayProcess], redis: RedisServer
) -> None:
    one, _ = nodes
    async with Client.open(one.public) as ann:
        await ann.call("subscribe", channel="room")
        redis.kill()
        try:
            refused = await one.request("POST", "/v1/publish", {"channel": "room", "data": 1})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            assert (await ann.call("ping"))["type"] == "pong"
            assert (await one.request("GET", "/readyz")).status_code == 503
            assert (await one.request("GET", "/healthz")).status_code == 200
        finally:
            redis.start()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            # Redis is empty after its return: subscribers of channels with history get a notice.
            gap = await ann.next_push("gap")
            assert (gap["channel"], gap["reason"]) == ("room", "reset")
        message = await publish(one.internal, "room", "again")
        assert (await ann.next_push("message"))["message"] == message["message"]
