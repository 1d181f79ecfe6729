"""A node that was cut off from the others applies the user commands that it missed."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.broker.redis.keys import Keys, shard_of
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer, running_redis
from tests.e2e.clients import Client
from tests.e2e.gateway import token
from tests.e2e.redis_gateway import node_with_redis, poll_until, wait_ready

ANN = "ann"
LEASE = "2s"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[RedisServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(running_redis(made(tmp_path / name))) for name in ("redis", "other")]


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def test_disconnect_sent_while_a_node_is_cut_off_is_applied_when_it_returns(
    servers: list[RedisServer], tmp_path: Path
) -> None:
    """The node is still connected to the other server; connections made after the command stay open."""
    shard = shard_of(f"@{ANN}", 2)
    hers, nodes = servers[shard], Keys("fanway", shard).nodes

    async def reaped() -> bool:
        return not any(name.startswith(b"far~") for name in hers.execute("ZRANGE", nodes, 0, -1))

    def settings(name: str, url: str) -> dict[str, str]:
        urls = [url if each is hers else each.url for each in servers]
        return {"NODE__NAME": name, "BROKER__URLS": ",".join(urls), "BROKER__LEASE": LEASE}

    ann = token(ANN, now=time.time())
    async with (
        Proxy(hers.port) as wire,
        node_with_redis(tmp_path / "near", "", **settings("near", hers.url)) as near,
        node_with_redis(tmp_path / "far", "", **settings("far", wire.url)) as far,
    ):
        await wait_ready(near)
        await wait_ready(far)
        async with Client.open(far.public, token=ann) as stolen:
            wire.hold()
            await poll_until(reaped)
            answer = await near.request("POST", f"/v1/users/{ANN}/disconnect", {"reason": "signed out"})
            assert answer.status_code == 200
            async with Client.open(far.public, token=ann) as again:
                assert (await stolen.call("ping"))["type"] == "pong"
                wire.release()
                assert await stolen.expect_close() == (4005, "signed out")

                async def routed() -> bool:
                    body = await near.request("GET", f"/v1/users/{ANN}")
                    return len(body.json()["connections"]) == 1

                await poll_until(routed)
                asked = await near.request("POST", f"/v1/users/{ANN}/subscribe", {"channel": "plain:a"})
                assert asked.json() == {"connections": 1}
                assert (await again.next_push("subscribed"))["channel"] == "plain:a"
