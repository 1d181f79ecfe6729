"""All clients lose their connections and resume at once: Redis' load grows with channels, not clients."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from gateway.broker.redis.inbox.route_adds import ROUTES_PER_CALL
from gateway.broker.redis.operations.member_writes import MEMBERS_PER_CALL
from gateway.broker.redis.timeouts import BATCH_INTERVAL_SECONDS
from tests.broker.redis_server import RedisServer, running_redis
from tests.e2e.clients import RawConnection
from tests.e2e.gateway import TIMEOUT_SECONDS, GatewayProcess, token, two_nodes

CLIENTS = 300
CHANNELS = 20
EACH = 3
"""Channels that a client follows."""

AT_ONCE = 40
"""Messages of each channel that one request publishes."""

OPERATIONS = 3
"""That a storm may cost Redis for each channel."""

CONFIG = """
[channels.default]
subscribe = "anyone"
history = 1_000

[channels.here]
subscribe = "anyone"
history = 1_000
presence = true
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def nodes(
    redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    with two_nodes(
        tmp_path_factory,
        CONFIG,
        BROKER__URL=redis.url,
        # So that whatever Redis is asked meanwhile, it is asked by the storm.
        BROKER__LEASE="1h",
        BROKER__LINGER="1h",
        DRAIN__WINDOW="0s",
    ) as nodes:
        yield nodes


class Crowd:
    """Clients, each with its channels and the position that it has reached in them."""

    def __init__(self, rooms: str) -> None:
        chance = random.Random(1)
        self.channels = [f"{rooms}:{number}" for number in range(CHANNELS)]
        self.follows = [chance.sample(self.channels, EACH) for _ in range(CLIENTS)]
        self.positions: dict[str, list[str]] = {}
        """The ids of each channel's messages."""
        self.connections: list[RawConnection] = []
        self.staying: RawConnection | None = None

    def since(self, client: int) -> dict[str, int]:
        """How many messages *client* has had of each channel that it follows: all sorts of numbers."""
        return {name: 1 + (client + number) % 10 for number, name in enumerate(self.follows[client])}

    async def publish(self, node: GatewayProcess, count: int) -> None:
        """Publish *count* messages in each channel."""
        said = len(self.positions.get(self.channels[0], ()))
        for start in range(said, said + count, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, said + count))
            batch = [
                {"publish": {"channel": name, "data": number}} for number in numbers for name in self.channels
            ]
            answer = await node.request("POST", "/v1/batch", {"commands": batch})
            for result in answer.json()["results"]:
                self.positions.setdefault(result["channel"], []).append(result["message"])

    async def stay(self, node: GatewayProcess) -> None:
        """Let one more follow every channel, and not lose its connection."""
        self.staying = raw = await RawConnection.websocket(node.public)
        await raw.send_command(type="connect", id=1, subs={name: {} for name in self.channels})
        assert len((await raw.receive())["subs"]) == CHANNELS

    def close(self) -> None:
        """Let everybody go."""
        self.drop_all_connections()
        if self.staying is not None:
            self.staying.close()

    async def come(self, node: GatewayProcess) -> None:
        """Connect everybody at once, each from the position that it has."""
        await asyncio.gather(*(self._resume(node, number) for number in range(CLIENTS)))

    async def _resume(self, node: GatewayProcess, number: int) -> None:
        raw = await RawConnection.websocket(node.public)
        self.connections.append(raw)
        had = self.since(number)
        subs = {name: {"since": self.positions[name][count - 1]} for name, count in had.items()}
        await raw.send_command(type="connect", id=1, subs=subs)
        reply = await raw.receive()
        received: dict[str, list[str]] = {}
        for name in had:
            said = reply["subs"][name]
            assert said["recovered"] is True, said
            received[name] = [each["message"] for each in said["messages"]]
        missed = {name: self.positions[name][count:] for name, count in had.items()}
        # A reply has a part of what was missed, the rest follows.
        while any(len(received[name]) < len(missed[name]) for name in had):
            push = await raw.receive()
            if push["type"] == "message":
                received[push["channel"]].append(push["message"])
        assert received == missed

    def drop_all_connections(self) -> None:
        """Lose every connection at once."""
        for raw in self.connections:
            raw.close()
        self.connections.clear()


async def sessions(node: GatewayProcess, count: int) -> None:
    """Wait until so many clients are left at *node*."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while (await node.metrics())["hub_sessions"] != count:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0.05)


def asked(redis: RedisServer, command: str = "evalsha") -> int:
    """How many scripts Redis was asked to run, by whoever; or how many of another *command*."""
    stats = redis.execute("INFO", "commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def present(redis: RedisServer, crowd: Crowd) -> int:
    """How many members the channels of *crowd* have together."""
    return sum(redis.execute("HLEN", f"fanway:{{0}}:who:{name}") for name in crowd.channels)


async def presence(redis: RedisServer, crowd: Crowd, count: int) -> None:
    """Wait until Redis has heard who came, or who left."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while present(redis, crowd) != count:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0.05)


PLACES = ["where somebody stayed", "where nobody is left", "on another node"]


@pytest.mark.parametrize(
    ("where", "missed"),
    # The hub still remembers so much; it does not; nor is it few.
    [*((where, missed) for where in PLACES for missed in (5, 100)), ("on another node", 800)],
)
async def test_reconnect_storm_costs_redis_per_channel(
    redis: RedisServer, nodes: tuple[GatewayProcess, GatewayProcess], where: str, missed: int
) -> None:
    one, two = nodes
    stays = where == "where somebody stayed"
    with closing(Crowd(f"{where.replace(' ', '-')}-{missed}")) as crowd:
        await crowd.publish(one, 10)
        await crowd.come(one)
        if stays:
            await crowd.stay(one)
        crowd.drop_all_connections()
        await sessions(one, int(stays))
        await crowd.publish(two, missed)
        before = asked(redis)
        await crowd.come(two if where == "on another node" else one)
        cost = asked(redis) - before
        assert cost <= OPERATIONS * CHANNELS
    await sessions(one, 0)
    await sessions(two, 0)


async def test_reconnect_storm_with_presence_costs_one_join_per_client(
    redis: RedisServer, nodes: tuple[GatewayProcess, GatewayProcess]
) -> None:
    one, two = nodes
    everybody = CLIENTS * EACH
    with closing(Crowd("here")) as crowd:
        await crowd.publish(one, 10)
        await crowd.come(one)
        await presence(redis, crowd, everybody)
        crowd.drop_all_connections()
        await presence(redis, crowd, 0)
        await crowd.publish(two, 5)
        before, looks = asked(redis), asked(redis, "hvals")
        await crowd.come(two)
        cost = asked(redis) - before
        assert cost <= OPERATIONS * CHANNELS + everybody
        # Nor is a look at them needed to count them, whoever asks.
        await crowd.stay(two)
        await presence(redis, crowd, everybody + CHANNELS)
        name = crowd.channels[0]
        there = 1 + sum(name in each for each in crowd.follows)
        assert crowd.staying is not None
        await crowd.staying.send_command(type="presence", id=2, channel=name)
        counted = await crowd.staying.receive()
        assert (counted["connections"], counted["users"]) == (there, 1)
        counted = (await one.request("GET", f"/v1/channels/{name}/presence?members=false")).json()
        assert (counted["connections"], counted["users"]) == (there, 1)
        assert (await one.request("GET", f"/v1/channels/{name}")).json()["users"] == 1
        assert asked(redis, "hvals") == looks
        listed = (await one.request("GET", f"/v1/channels/{name}/presence")).json()
        assert len(listed["members"]) == there
        assert asked(redis, "hvals") == looks + 1
    await sessions(one, 0)
    await sessions(two, 0)


async def test_users_who_come_and_go_at_once_share_calls(
    redis: RedisServer, nodes: tuple[GatewayProcess, GatewayProcess]
) -> None:
    one, _ = nodes
    now, users = time.time(), 500
    identities = [token(f"user{number}", now=now) for number in range(users)]
    connections: list[RawConnection] = []

    async def come(identity: str) -> None:
        raw = await RawConnection.websocket(one.public)
        connections.append(raw)
        await raw.send_command(type="connect", id=1, token=identity, subs={"here:all": {}})
        assert (await raw.receive())["subs"]["here:all"]["type"] == "subscribed"

    async def members(count: int) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while redis.execute("HLEN", "fanway:{0}:who:here:all") != count:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def most_calls(seconds: float) -> float:
        """Routes and members are written once per interval, at most, and each call has a bound."""
        rounds = seconds / BATCH_INTERVAL_SECONDS + 1
        return 2 * rounds + 2 * users / ROUTES_PER_CALL + users / MEMBERS_PER_CALL + OPERATIONS

    for go in (False, True):
        before, began = asked(redis), time.monotonic()
        if go:
            for raw in connections:
                raw.close()
        else:
            await asyncio.gather(*(come(identity) for identity in identities))
        await members(0 if go else users)
        calls = asked(redis) - before
        assert calls <= most_calls(time.monotonic() - began)
    await sessions(one, 0)
