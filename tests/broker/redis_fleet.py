"""Several nodes on one Redis, in one process: none loses its lease or gives up, but in a test of that."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Self

from gateway.broker.notices import Notice
from gateway.broker.redis import RedisBroker, RedisOptions, Server
from gateway.broker.redis.connection.servers import NO_CREDENTIALS, Credentials
from gateway.broker.redis.keys import Keys
from gateway.errors import BrokerUnavailable
from tests.broker.node import RecordingNode, publication
from tests.broker.redis_server import RedisServer

LEASE = 1.5
"""Seconds, where one is to be over: longer than a busy machine stands still."""

SECONDS = 20.0
"""For which anything may keep a test waiting; nothing takes it."""

OPTIONS = RedisOptions(
    lease=60.0,
    beat=0.2,
    linger=0.0,
    publish_timeout=10.0,
    resume_timeout=10.0,
    presence_timeout=10.0,
    start_timeout=10.0,
    connect_timeout=2.0,
    inbox_block=0.2,
)
"""A lease that no machine is slow enough to lose, renewed as often as a short one, and deadlines as long."""


@dataclass(frozen=True, slots=True)
class Member:
    """One node and its broker."""

    node: RecordingNode
    broker: RedisBroker
    news: list[Notice]
    """What it has told of its shards."""


class Fleet:
    """Starts brokers, and closes those that are left at the end."""

    def __init__(self, *urls: str, cluster: bool = False, credentials: Credentials = NO_CREDENTIALS) -> None:
        """Reach Redis by *urls*, unless a node is told others."""
        self._urls = urls
        self._cluster = cluster
        self._credentials = credentials
        self.members: list[Member] = []
        self.errors: list[BaseException] = []
        """What went wrong where nobody waited for it; a test that expects some forgets them."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(member.broker.close() for member in self.members))
        assert self.errors == []

    async def launch(self, *urls: str, **options: float | str) -> Member:
        """Return another node, on *urls* where it sees Redis by another way than the others.

        Where *options* give it a lease, it renews that three times in one.
        """
        node = RecordingNode(f"n{len(self.members) + 1}")
        own = {"beat": 0.0, **options} if "lease" in options else options
        set_ = replace(OPTIONS, **own)  # type: ignore[arg-type]
        servers = [Server.from_url(url, self._credentials) for url in urls or self._urls]
        news: list[Notice] = []
        broker = RedisBroker(
            servers,
            set_,
            cluster=self._cluster,
            on_error=self.errors.append,
            on_notice=lambda _, each: news.append(each),
        )
        member = Member(node, broker, news)
        self.members.append(member)
        await broker.start(node)
        return member


def clean_up(server: RedisServer, *channels: str) -> None:
    """Do what another node does once the lease of the only one is over, which is routed for *channels*."""
    keys = Keys("fanway", 0)
    with server.client() as client, client.pipeline() as at_once:
        (node,) = client.zrange(keys.nodes, 0, -1)
        name = node.decode()
        for channel in channels:
            at_once.srem(keys.route(channel), name)
        at_once.delete(keys.inbox(name), keys.node_routes(name))
        at_once.hset(keys.state, f"gone:{name}", "1 9999999999999")
        at_once.zrem(keys.nodes, name)
        at_once.execute()


async def refuses(member: Member, why: str, channel: str = "room") -> None:
    """Wait until *member* is not ready and refuses a publish for what *why*, a pattern, finds."""

    async def refused() -> bool:
        try:
            await member.broker.publish(publication(channel, "in vain"))
        except BrokerUnavailable as error:
            return re.search(why, str(error)) is not None
        return False

    await eventually(refused)
    assert not member.broker.ready()


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait for *condition*, which another process brings about and tells nobody."""
    async with asyncio.timeout(SECONDS):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.005)
