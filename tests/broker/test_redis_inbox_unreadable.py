"""Nodes that would be ready and hear nothing: they are out of contact, and say why."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.broker.redis import Credentials
from gateway.broker.redis.timeouts import INBOX_UNREADABLE_SECONDS
from gateway.errors import BrokerUnavailable
from protocol.messages import Member
from tests.broker.recording_node import KEPT, publish, values
from tests.broker.redis_fleet import LEASE_SECONDS, Fleet, eventually, wait_until_rejected
from tests.broker.redis_server import DURABLE, RedisServer, running_redis

USER, PASSWORD = "gateway", "a-password"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path, *DURABLE) as server:
        server.execute("ACL", "SETUSER", USER, "on", f">{PASSWORD}", "~*", "+@all")
        yield server


# ---------------------------------------------------------------- inboxes that cannot be read


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


# ---------------------------------------------------------------- nodes that would not hear each other


async def refused(fleet: Fleet, *urls: str, why: str, **options: float | str) -> None:
    await wait_until_rejected(await fleet.launch(*urls, start_timeout=0.0, **options), re.escape(why))


async def test_a_node_with_other_shards_does_not_join(server: RedisServer) -> None:
    async with Fleet(server.url) as fleet:
        one = await fleet.launch()
        why = "others have server 1 of 1 with 1 shards each, this node has server 1 of 1 with 2 shards each"
        await refused(fleet, why=why, shards_per_server=2)
        # Two clusters of gateways at one Redis do not concern each other.
        other = await fleet.launch(prefix="another", shards_per_server=2)
        await publish(other.broker, "room", 1)
        await publish(one.broker, "room", 1)


async def test_a_node_with_the_same_servers_in_another_order_does_not_join(
    server: RedisServer, tmp_path: Path
) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    with running_redis(folder) as second:
        async with Fleet(server.url, second.url) as fleet:
            await fleet.launch()
            await refused(fleet, second.url, server.url, why="others have server")


@pytest.mark.parametrize("longer", [("first", "second"), ("second", "first")], ids=["behind", "before"])
async def test_a_node_that_knows_a_server_more_serves_no_channel_at_all(
    server: RedisServer, tmp_path: Path, longer: tuple[str, str]
) -> None:
    """The server that nobody else knows takes it in; what it said there would reach none of the others."""
    folder = tmp_path / "second"
    folder.mkdir()
    with running_redis(folder) as second:
        urls = {"first": server.url, "second": second.url}
        async with Fleet(server.url) as fleet:
            one = await fleet.launch(lease=LEASE_SECONDS)
            other = await fleet.launch(*(urls[name] for name in longer), lease=LEASE_SECONDS)
            for number in range(10):
                await wait_until_rejected(
                    other, "this node has other servers or shards than the running nodes", f"c{number}"
                )
                with pytest.raises(BrokerUnavailable):
                    await other.broker.subscribe(f"c{number}", KEPT)
            assert other.broker.statistics()["leases"] == 1
            await publish(one.broker, "room", 1)
            await one.broker.close()
            await eventually(other.broker.ready)
            for number in range(10):
                await publish(other.broker, f"c{number}", 1)


@pytest.mark.parametrize("forgets", [("FLUSHALL",), ("DEL", "fanway:layout")], ids=["all", "after a lease"])
async def test_who_waits_outside_takes_nothing_from_those_who_run(
    server: RedisServer, forgets: tuple[str, ...]
) -> None:
    async with Fleet(server.url) as fleet:
        one = await fleet.launch()
        outside = await fleet.launch(start_timeout=0.1, shards_per_server=2)
        for number in range(5):
            server.execute(*forgets)
            await eventually(lambda: server.execute("EXISTS", "fanway:layout") == 1)
            await eventually(one.broker.ready)
            await publish(one.broker, "room", number)
            assert not outside.broker.ready()


async def test_servers_and_shards_may_change_once_nobody_runs(server: RedisServer) -> None:
    async with Fleet(server.url) as fleet:
        one = await fleet.launch(lease=LEASE_SECONDS)
        await publish(one.broker, "room", 1)
        await one.broker.close()
        other = await fleet.launch(lease=LEASE_SECONDS, shards_per_server=2, start_timeout=0.1)
        await eventually(other.broker.ready)  # two leases later: nobody says that it goes for good


# ---------------------------------------------------------------- ghosts


async def test_a_leave_that_redis_loses_leaves_no_ghost(server: RedisServer, tmp_path: Path) -> None:
    async with Fleet(server.url) as fleet:
        one = await fleet.launch(lease=LEASE_SECONDS)
        for connection in ("c1", "c2"):
            await one.broker.join("room", Member(connection, "ann"))
        (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
        remembered = log.read_bytes()
        await one.broker.leave("room", "c1")
        server.kill()
        log.write_bytes(remembered)
        server.start()

        async def alone() -> bool:
            try:
                members = (await one.broker.presence("room")).members
            except BrokerUnavailable:
                return False
            return [member.connection for member in members] == ["c2"]

        await eventually(alone)
        assert one.broker.statistics()["resets"] == 1
