"""A node that cannot read its inbox is not ready and reports why, although it holds its lease."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.broker.redis import Credentials
from gateway.broker.redis.timeouts import INBOX_UNREADABLE_SECONDS
from gateway.errors import BrokerUnavailable
from tests.broker.recording_node import KEPT, publish, values
from tests.broker.redis_fleet import Fleet, eventually, wait_until_rejected
from tests.broker.redis_server import DURABLE, RedisServer, running_redis

USER, PASSWORD = "gateway", "a-password"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path, *DURABLE) as server:
        server.execute("ACL", "SETUSER", USER, "on", f">{PASSWORD}", "~*", "+@all")
        yield server


@pytest.mark.parametrize("right", ["xread", "xtrim"])
async def test_a_node_that_cannot_read_its_inbox_is_not_ready_and_reports_why(
    server: RedisServer, right: str
) -> None:
    async with Fleet(server.url, credentials=Credentials(USER, PASSWORD)) as fleet:
        one = await fleet.launch()
        await one.broker.subscribe("room", KEPT)
        await publish(one.broker, "room", "before")
        await one.node.messages(1)
        server.execute("ACL", "SETUSER", USER, f"-{right}")
        await eventually(lambda: not one.broker.ready())
        await wait_until_rejected(one, "the inbox cannot be read: Redis' ACL forbids")
        with pytest.raises(BrokerUnavailable):
            await one.broker.subscribe("another", KEPT)
        assert one.broker.statistics()["failures"] > INBOX_UNREADABLE_SECONDS
        server.execute("ACL", "SETUSER", USER, f"+{right}")
        await eventually(one.broker.ready)
        await publish(one.broker, "room", "after")
        assert values(await one.node.messages(1)) == ["after"]


async def test_entries_are_delivered_although_the_inbox_cannot_be_trimmed(server: RedisServer) -> None:
    server.execute("ACL", "SETUSER", USER, "-xtrim")
    async with Fleet(server.url, credentials=Credentials(USER, PASSWORD)) as fleet:
        one = await fleet.launch()
        await one.broker.subscribe("room", KEPT)
        for value in range(4):
            await publish(one.broker, "room", value)
            assert values(await one.node.messages(1)) == [value]
