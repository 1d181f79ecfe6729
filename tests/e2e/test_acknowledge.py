"""The acknowledgement level of a publish: stored, or also on a replica."""

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
