"""Several nodes on one Redis, in one process, with timeouts that a busy machine does not exceed."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Self

from gateway.broker.notices import Notice
from gateway.broker.redis import RedisBroker, RedisOptions, Server
from gateway.broker.redis.connection.server import NO_CREDENTIALS, Credentials
from gateway.broker.redis.keys import Keys
from gateway.errors import BrokerUnavailable
from tests.broker.recording_node import RecordingNode, publication
from tests.broker.redis_server import RedisServer

LEASE_SECONDS = 1.5
"""For tests in which a lease expires: longer than a busy machine stops a process."""

TIMEOUT_SECONDS = 20.0
"""For anything that a test waits for; nothing takes that long."""

OPTIONS = RedisOptions(
    lease=60.0,
    beat=0.2,
    linger=0.0,
    publish_timeout=10.0,
    subscribe_timeout=10.0,
    history_timeout=10.0,
    presence_timeout=10.0,
    lookup_timeout=10.0,
    start_timeout=10.0,
    connect_timeout=2.0,
    inbox_block=0.2,
)
"""A lease and timeouts that no machine is slow enough to exceed; renewed as often as a short lease."""


@dataclass(frozen=True, slots=True)
class RunningNode:
    """One node and its broker."""

    node: RecordingNode
    broker: RedisBroker
    notices: list[Notice]
    """Those of its broker, oldest first."""


class Fleet:
    """Starts nodes, and closes all of them at the end."""

    def __init__(self, *urls: str, cluster: bool = False, credentials: Credentials = NO_CREDENTIALS) -> None:
        """Connect to Redis at *urls*, unless `launch` is given others."""
        self._urls = urls
        self._cluster = cluster
        self._credentials = credentials
        self.members: list[RunningNode] = []
        self.errors: list[BaseException] = []
        """Errors of background tasks; a test that expects some clears the list."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(member.broker.close() for member in self.members))
        assert self.errors == []

    async def launch(self, *urls: str, **options: float | str) -> RunningNode:
        """Start another node, connected to *urls* if given, and return it.

        With a `lease` among *options* it is renewed three times per lease, unless they say otherwise.
        """
        node = RecordingNode(f"n{len(self.members) + 1}")
        given = {"beat": 0.0, **options} if "lease" in options else options
        redis_options = replace(OPTIONS, **given)  # type: ignore[arg-type]
        servers = [Server.from_url(url, self._credentials) for url in urls or self._urls]
        notices: list[Notice] = []
        broker = RedisBroker(
            servers,
            redis_options,
            cluster=self._cluster,
            on_error=self.errors.append,
            on_notice=lambda _, notice: notices.append(notice),
        )
        member = RunningNode(node, broker, notices)
        self.members.append(member)
        await broker.start(node)
        return member


def reap_only_node(server: RedisServer, *channels: str) -> None:
    """Reap the only node, which is routed for *channels*, as another node does when its lease has expired."""
    keys = Keys("fanway", 0)
    with server.client() as client, client.pipeline() as pipeline:
        (node,) = client.zrange(keys.nodes, 0, -1)
        name = node.decode()
        for channel in channels:
            pipeline.srem(keys.route(channel), name)
        pipeline.delete(keys.inbox(name), keys.node_routes(name))
        pipeline.hset(keys.state, f"gone:{name}", "1 9999999999999")
        pipeline.zrem(keys.nodes, name)
        pipeline.execute()


async def wait_until_rejected(member: RunningNode, pattern: str, channel: str = "room") -> None:
    """Wait until *member* rejects a publish with an error that *pattern* finds; it must not be ready then."""

    async def rejected() -> bool:
        try:
            await member.broker.publish(publication(channel, "rejected"))
        except BrokerUnavailable as error:
            return re.search(pattern, str(error)) is not None
        return False

    await eventually(rejected)
    assert not member.broker.ready()


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Poll *condition*, which another process brings about, until it is true."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.005)
