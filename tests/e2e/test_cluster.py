"""Two gateways with a Redis Cluster: clients and backends need not know which shard has a channel."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.broker.redis_cluster import RedisCluster, running_cluster
from tests.e2e.clients import Client
from tests.e2e.gateway import TIMEOUT_SECONDS, GatewayProcess, publish, token, two_nodes

CHANNELS = [f"room-{number:02}" for number in range(30)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def nodes(
    cluster: RedisCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    cluster.execute("FLUSHALL")
    urls = ",".join(cluster.urls)
    with two_nodes(tmp_path_factory, BROKER__URLS=urls, BROKER__CLUSTER="true", DRAIN__WINDOW="0s") as nodes:
        yield nodes


async def test_channels_of_every_shard_work_at_once(nodes: tuple[GatewayProcess, GatewayProcess]) -> None:
    one, two = nodes
    subs: dict[str, dict[str, object]] = {channel: {} for channel in CHANNELS}
    async with Client.open(one.public, subs=subs) as ann:
        assert all(each["type"] == "subscribed" for each in ann.connected["subs"].values())
        body = {"channels": CHANNELS, "data": "hello"}
        reply = (await two.request("POST", "/v1/broadcast", body)).json()["results"]
        ids = {each["channel"]: each["message"] for each in reply}
        received = [await ann.next_push("message") for _ in CHANNELS]
        assert {message["channel"]: message["message"] for message in received} == ids
    async with Client.open(two.public, subs={name: {"since": ids[name]} for name in CHANNELS}) as ann:
        assert all(each["recovered"] for each in ann.connected["subs"].values())
        page = (await one.request("GET", "/v1/channels?prefix=room-&limit=20")).json()
        rest = (await one.request("GET", f"/v1/channels?prefix=room-&cursor={page['cursor']}")).json()
        assert [each["channel"] for each in page["channels"] + rest["channels"]] == CHANNELS
        present = (await one.request("GET", "/v1/channels/room-07/presence")).json()
        assert present["connections"] == 1


async def test_users_nodes_and_totals_are_those_of_the_whole_cluster(
    nodes: tuple[GatewayProcess, GatewayProcess],
) -> None:
    one, two = nodes
    users = [f"user-{number}" for number in range(8)]
    async with asyncio.timeout(TIMEOUT_SECONDS), asyncio.TaskGroup() as tasks:
        connected = asyncio.Barrier(len(users) + 1)

        async def stay(user: str, node: GatewayProcess) -> None:
            async with Client.open(node.public, token=token(user, now=time.time())) as client:
                await connected.wait()
                assert (await client.next_push("message"))["data"] == "to all"
                assert (await client.expect_close()).code == 4005

        for number, user in enumerate(users):
            tasks.create_task(stay(user, nodes[number % 2]))
        await connected.wait()
        names = [each["node"] for each in (await one.request("GET", "/v1/nodes")).json()["nodes"]]
        assert sorted(names) == ["one", "two"]
        reply = (await two.request("POST", "/v1/notify", {"users": users, "data": "to all"})).json()
        assert all(each["message"] for each in reply["results"])
        for user in users:
            answer = await one.request("POST", f"/v1/users/{user}/disconnect")
            assert answer.json() == {"connections": 1}


async def test_idempotency_key_publishes_once_on_any_node(
    nodes: tuple[GatewayProcess, GatewayProcess],
) -> None:
    for channel in CHANNELS[:6]:
        first = await publish(nodes[0].internal, channel, 1, key="k")
        again = await publish(nodes[1].internal, channel, 1, key="k")
        assert (first["replayed"], again["replayed"]) == (False, True)
        assert first["message"] == again["message"]
