"""Users who return soon, at another node: nobody is told that they left; real nodes over a real Redis."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from tests.broker.redis_server import RedisServer, running_redis
from tests.e2e.clients import Client
from tests.e2e.gateway import GatewayProcess, publish, token, two_nodes
from tests.e2e.redis_gateway import poll_until

CONFIG = """
[channels.default]
subscribe = "authenticated"

[channels.here]
presence = true
join_leave = true
presence_grace = "1m"
"""
"""In `here` no grace ends during a test."""

ROOM = "here:room"
USERS = 100


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def nodes(
    redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    redis.execute("FLUSHALL")
    with two_nodes(
        tmp_path_factory, CONFIG, BROKER__URL=redis.url, BROKER__LEASE="1m", DRAIN__WINDOW="1s"
    ) as nodes:
        yield nodes


class User:
    """A user who stays in a channel, and counts the joins and leaves that it is told of."""

    def __init__(self, stack: AsyncExitStack, name: str) -> None:
        self.name = name
        self.members: dict[str, str] = {}
        """Their users, by connection id: the list that it keeps."""
        self.pushes: Counter[str] = Counter()
        self.client: Client
        self._stack = stack

    async def connect(self, node: GatewayProcess) -> None:
        """Connect to *node*, and get the members of the channel."""
        self.client = await self._stack.enter_async_context(
            Client.open(node.public, token=token(self.name, now=time.time()))
        )
        reply = await self.client.call("subscribe", channel=ROOM, members=True)
        self.members = {member["connection"]: member["user"] for member in reply["members"]}

    async def receive_up_to(self, data: str) -> None:
        """Receive everything up to the message *data*."""
        while (push := await self.client.receive()).get("data") != data:
            if push["type"] in ("join", "leave"):
                self.pushes[push["type"]] += 1
                member = push["member"]
                if push["type"] == "join":
                    self.members[member["connection"]] = member["user"]
                else:
                    del self.members[member["connection"]]

    async def return_to(self, node: GatewayProcess) -> None:
        """Wait until the node sends it away, and return to *node* after the delay that it was told."""
        delay = (await self.client.next_push("reconnect"))["after_ms"]
        assert (await self.client.expect_close()).code == 4000
        await asyncio.sleep(delay / 1000)
        await self.connect(node)


async def test_clients_of_a_node_that_drains_have_neither_left_nor_joined(
    nodes: tuple[GatewayProcess, GatewayProcess],
) -> None:
    one, two = nodes
    async with AsyncExitStack() as stack:
        users = [User(stack, f"user{number}") for number in range(USERS)]
        for number, user in enumerate(users):
            await user.connect(nodes[number % 2])
        await publish(two.internal, ROOM, "all here")
        await asyncio.gather(*(user.receive_up_to("all here") for user in users))
        before = users[0].members
        assert len(before) == USERS
        assert all(user.members == before for user in users)
        for user in users:
            user.pushes.clear()
        one.send_signal(signal.SIGTERM)
        await asyncio.gather(*(user.return_to(two) for user in users[::2]))
        await one.wait_exited()
        await publish(two.internal, ROOM, "all back")
        await asyncio.gather(*(user.receive_up_to("all back") for user in users))
        assert sum((user.pushes for user in users), Counter()) == Counter()
        assert all(user.members == before for user in users)
        watcher, leaver = users[1].client, users[0]
        reply = await watcher.call("presence", channel=ROOM, members=True)
        assert {member["connection"]: member["user"] for member in reply["members"]} == before
        await leaver.client.call("unsubscribe", channel=ROOM)
        left = (await watcher.next_push("leave"))["member"]
        assert before[left["connection"]] == left["user"] == leaver.name


async def test_a_user_who_comes_back_at_another_node_never_left(
    nodes: tuple[GatewayProcess, GatewayProcess],
) -> None:
    async def absent(count: int) -> bool:
        """Return whether *count* connections have ended, and the nodes have told Redis."""
        return sum([(await node.metrics())["broker_absent"] for node in nodes]) == count

    one, two = nodes
    async with AsyncExitStack() as stack:
        watchers = [User(stack, f"watcher{number}") for number in range(2)]
        for watcher, node in zip(watchers, nodes, strict=True):
            await watcher.connect(node)
        identity = token("ann", now=time.time())
        async with Client.open(one.public, token=identity, subs={ROOM: {}}) as first:
            announced = first.connected["connection"]
            assert "listed_as" not in first.connected["subs"][ROOM]
        for number, node in enumerate((two, one, two), start=1):
            await poll_until(lambda number=number: absent(number))  # type: ignore[misc]
            async with Client.open(node.public, token=identity, subs={ROOM: {}}) as again:
                assert again.connected["subs"][ROOM]["listed_as"] == announced
        await publish(one.internal, ROOM, "still here")
        for watcher in watchers:
            await watcher.receive_up_to("still here")
            assert watcher.members[announced] == "ann"
        assert [dict(watcher.pushes) for watcher in watchers] == [{"join": 2}, {"join": 1}]
