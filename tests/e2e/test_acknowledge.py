"""The acknowledgement level of a publish: stored, or also on a replica."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.broker.redis_fleet import eventually
from tests.broker.redis_sentinels import has_replica, primary_with_replica
from tests.broker.redis_server import RedisServer
from tests.e2e.clients import Client
from tests.e2e.gateway import GatewayProcess, gateway_process, publish
from tests.e2e.redis_gateway import wait_ready


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    with primary_with_replica(tmp_path) as pair:
        yield pair


@pytest.fixture
def gateway(pair: tuple[RedisServer, RedisServer], tmp_path: Path) -> Iterator[GatewayProcess]:
    with gateway_process(
        tmp_path,
        BROKER__KIND="redis",
        BROKER__URL=pair[0].url,
        BROKER__ACKNOWLEDGE="replicated",
        DRAIN__WINDOW="0s",
    ) as gateway:
        yield gateway


async def test_every_publish_path_returns_the_acknowledgement_level(
    gateway: GatewayProcess, pair: tuple[RedisServer, RedisServer]
) -> None:
    await eventually(lambda: has_replica(pair[0]))

    async def outcome(path: str, body: dict[str, object]) -> list[str | None]:
        answer = (await gateway.request("POST", path, body)).json()
        return [each.get("acknowledged") for each in answer.get("results", [answer])]

    # A busy machine's replica may take longer than the 100 ms for once.
    async def reached(path: str, body: dict[str, object]) -> bool:
        return set(await outcome(path, body)) == {"replicated"}

    await eventually(lambda: reached("/v1/publish", {"channel": "c", "data": 1}))
    await eventually(lambda: reached("/v1/broadcast", {"channels": ["c", "d"], "data": 1}))
    await eventually(lambda: reached("/v1/notify", {"users": ["ann"], "data": 1}))
    each = {"publish": {"channel": "c", "data": 1}}
    await eventually(lambda: reached("/v1/batch", {"commands": [each, each]}))
    hasty = {"publish": {"channel": "c", "data": 1, "acknowledge": "stored"}}
    assert (await outcome("/v1/batch", {"commands": [each, hasty]}))[1] is None
    async with Client.open(gateway.public) as ann:

        async def by_client() -> bool:
            reply = await ann.call("publish", channel="c", data=1)
            return bool(reply["acknowledged"] == "replicated")

        await eventually(by_client)
    os.kill(pair[1].pid, signal.SIGSTOP)
    try:
        answer = await publish(gateway.internal, "c", 2)
        assert answer["acknowledged"] == "stored"
    finally:
        os.kill(pair[1].pid, signal.SIGCONT)


async def test_batch_keeps_the_order_of_a_channel_whatever_its_levels(gateway: GatewayProcess) -> None:
    levels = ["replicated", "stored", "stored", "replicated", "stored", "replicated", "replicated", "stored"]
    commands = [
        {"publish": {"channel": "c", "data": number, "acknowledge": level}}
        for number, level in enumerate(levels)
    ]

    async def published(commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answer = await gateway.request("POST", "/v1/batch", {"commands": commands})
        return list(answer.json()["results"])

    async with Client.open(gateway.public) as ann:
        await ann.call("subscribe", channel="c")
        # Only one of the two connections to Redis exists at first: publishes on it would be faster.
        await publish(gateway.internal, "d", 0, acknowledge="stored")
        expected = []
        for batch in (commands, commands[::-1]):
            for result, command in zip(await published(batch), batch, strict=True):
                expected.append((result["message"], command["publish"]["data"]))
        pushes = [await ann.next_push("message") for _ in expected]
    assert [(push["message"], push["data"]) for push in pushes] == expected
    assert [message.partition("-")[0] for message, _ in expected] == [
        str(offset) for offset in range(1, len(expected) + 1)
    ]


async def test_commands_of_one_client_publish_in_their_order(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public) as ann:
        await ann.call("subscribe", channel="c")
        for number in range(30):
            await ann.send({"type": "publish", "id": 100 + number, "channel": "c", "data": number})
        assert [(await ann.next_push("message"))["data"] for _ in range(30)] == list(range(30))


async def test_replicated_publish_delays_no_other_channel(
    gateway: GatewayProcess, pair: tuple[RedisServer, RedisServer]
) -> None:
    await publish(gateway.internal, "c", 0, acknowledge="replicated")
    await publish(gateway.internal, "d", 0, acknowledge="stored")
    os.kill(pair[1].pid, signal.SIGSTOP)  # each replicated publish now waits 100 ms
    try:
        waiting = asyncio.create_task(publish(gateway.internal, "c", 1, acknowledge="replicated"))
        done = 0
        while not waiting.done():
            await publish(gateway.internal, "d", done, acknowledge="stored")
            done += 1
        assert (await waiting)["acknowledged"] == "stored"
    finally:
        os.kill(pair[1].pid, signal.SIGCONT)
    assert done > 1


async def test_repeated_publish_is_replicated_once_the_replica_has_it(
    gateway: GatewayProcess, pair: tuple[RedisServer, RedisServer]
) -> None:
    """Since 7.2 Redis waits for what the own connection wrote alone, and another one wrote it."""
    primary, replica = pair
    await eventually(lambda: has_replica(primary))

    async def again(key: str) -> Any:
        """Publish under *key* over connections that have written nothing yet."""
        primary.execute("CLIENT", "KILL", "TYPE", "normal")
        await wait_ready(gateway)
        answer = await publish(gateway.internal, "c", key, key=key)
        assert answer["replayed"]
        return answer["acknowledged"]

    await publish(gateway.internal, "c", "one", key="one")
    os.kill(replica.pid, signal.SIGSTOP)
    try:
        answer = await publish(gateway.internal, "c", "two", key="two")
        assert (answer["replayed"], answer["acknowledged"]) == (False, "stored")
        assert await again("two") == "stored"
    finally:
        os.kill(replica.pid, signal.SIGCONT)

    async def reached() -> bool:
        return bool(await again("two") == "replicated")

    await eventually(reached)
    assert 0 < primary.execute("PTTL", "fanway:{0}:key:c\ntwo") <= 300_000


async def test_node_without_redis_acknowledges_stored_only(tmp_path: Path) -> None:
    with gateway_process(tmp_path) as gateway:
        answer = await publish(gateway.internal, "c", 1, acknowledge="replicated")
        assert answer["acknowledged"] == "stored"
        assert "acknowledged" not in await publish(gateway.internal, "c", 1)
        wrong = {"channel": "c", "data": 1, "acknowledge": "twice"}
        refused = await gateway.request("POST", "/v1/publish", wrong)
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "bad_request")
