"""Connections to Redis that end or die between two calls: they are replaced before anything is sent."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.broker.base import Delivery
from gateway.broker.redis.connection.connection import RedisConnection
from gateway.broker.redis.connection.server import EndDetector, Server
from gateway.broker.redis.connection.topology import FixedPrimary
from gateway.broker.redis.scripts.registry import END_GRACES, RENEW_LEASE
from protocol.messages import Member
from protocol.position import MessageId
from tests.broker.recording_node import publication, publish
from tests.broker.redis_cluster import RedisCluster, running_cluster
from tests.broker.redis_fleet import Fleet, RunningNode, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer, running_redis
from tests.broker.test_redis_nodes import LONG, NO_RENEWALS

ANN = Member("c1", "ann", None)

Call = Callable[[RunningNode], Awaitable[Any]]

CALLS: dict[str, Call] = {
    "publish": lambda one: one.broker.publish(publication("room", 1, retention=LONG)),
    "presence": lambda one: one.broker.presence("room"),
    "count": lambda one: one.broker.count("room"),
    "history": lambda one: one.broker.read("room"),
    "subscribe": lambda one: one.broker.subscribe("another", LONG),
    "join": lambda one: one.broker.join("room", ANN),
    "clear": lambda one: one.broker.clear("room"),
    "connections": lambda one: one.broker.connections("ann"),
    "nodes": lambda one: one.broker.nodes(),
    "channels": lambda one: one.broker.subscribed_channels("", after="", limit=10),
}
"""A call of each kind; each connection of a shard carries some of them."""


async def use_every_connection(one: RunningNode) -> None:
    """Open all connections, and check that messages of `room` arrive."""
    await one.broker.subscribe("room", LONG)
    for call in CALLS.values():
        await call(one)
    await check_delivery(one)


async def check_delivery(one: RunningNode) -> None:
    """Publish without a key, and wait until the message comes back through the inbox."""
    one.node.envelopes.clear()
    (id,) = await publish(one.broker, "room", "marker", retention=LONG)
    await eventually(lambda: id in delivered(one))


def delivered(one: RunningNode) -> list[MessageId | None]:
    return [each.message.message for each in one.node.envelopes if isinstance(each, Delivery)]


def idle_connections(server: RedisServer) -> int:
    """Return how many connections of the gateway wait for a call; a reader of an inbox is never idle."""
    with server.client() as client:
        own = client.client_id()
        others = [each for each in client.client_list() if int(each["id"]) != own]
    return sum(each["cmd"] not in ("xread", "client|list") for each in others)


async def test_connections_that_redis_has_closed_for_being_idle_are_replaced_before_a_call(
    tmp_path: Path,
) -> None:
    with running_redis(tmp_path, "--timeout", "1", "--hz", "100") as server:
        async with Fleet(server.url) as fleet:
            one = await fleet.launch(beat=NO_RENEWALS)
            await use_every_connection(one)
            await eventually(lambda: idle_connections(server) == 0)
            for call in CALLS.values():
                await call(one)
            await check_delivery(one)
            figures = one.broker.statistics()
            assert (figures["failures"], figures["resent"], one.notices) == (0, 0, [])
            assert figures["replaced"] == 3, "publishes, reads, and all other calls"


def kill_connections(server: RedisServer) -> None:
    """Close every connection of the gateway, at once."""
    with server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def test_connections_that_redis_closes_right_before_a_call_fail_no_call(
    server: RedisServer, fleet: Fleet
) -> None:
    """`kill_connections` does not run the event loop: the node cannot have noticed it before the calls."""
    one = await fleet.launch()
    await use_every_connection(one)
    kill_connections(server)
    for call in CALLS.values():
        await call(one)
    await check_delivery(one)
    assert one.notices == []


async def test_a_transport_that_has_just_closed_is_replaced(fleet: Fleet) -> None:
    one = await fleet.launch()
    await publish(one.broker, "c", "before")
    connection = one.broker._shards[0].connections.publishes._connection  # noqa: SLF001 (the only way to close it at this moment)
    connection._connection._writer.transport.abort()  # noqa: SLF001
    await publish(one.broker, "c", "after")
    assert one.broker.statistics()["failures"] == 0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


async def test_connections_to_the_nodes_of_a_cluster_are_replaced(cluster: RedisCluster) -> None:
    async with Fleet(*cluster.urls, cluster=True) as fleet:
        one = await fleet.launch(beat=NO_RENEWALS)
        channels = [f"c{number}" for number in range(40)]
        for name in channels:
            await one.broker.subscribe(name, LONG)
            await publish(one.broker, name, 1, retention=LONG)
        for node in cluster.primaries:
            kill_connections(node)
        for name in channels:
            await one.broker.presence(name)
            await one.broker.read(name)
            await publish(one.broker, name, 2, retention=LONG)
        await eventually(lambda: len(delivered(one)) == 2 * len(channels))
        assert one.notices == []


# ---------------------------------------------------------------- behind a proxy


async def test_a_proxy_that_closes_idle_connections_fails_no_call(proxy: Proxy, fleet: Fleet) -> None:
    one = await fleet.launch(proxy.url)
    await use_every_connection(one)
    await proxy.close_connections()
    for call in CALLS.values():
        await call(one)
    await check_delivery(one)
    assert one.notices == []


async def test_connections_that_a_middlebox_has_forgotten_are_replaced_while_they_are_idle(
    proxy: Proxy, fleet: Fleet
) -> None:
    one = await fleet.launch(proxy.url)
    for name in ("publish", "presence", "connections"):
        await CALLS[name](one)
    # A middlebox remembers connections with traffic: what each renewal sends, and the reads of the inbox.
    kept = RENEW_LEASE.digest.encode(), END_GRACES.digest.encode(), b"XREAD"
    await eventually(lambda: proxy.idle(*kept) == 2)
    forgotten = proxy.forget(*kept)
    assert forgotten == 2, "publishes and reads"
    await eventually(lambda: one.broker.statistics()["replaced"] == forgotten)
    await use_every_connection(one)
    assert (one.broker.statistics()["failures"], one.notices) == (0, [])


async def test_idle_connections_carry_a_question_at_each_renewal(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    await use_every_connection(one)

    def pings() -> int:
        return int(server.execute("INFO", "commandstats").get("cmdstat_ping", {}).get("calls", 0))

    before, calls = pings(), one.broker.statistics()["calls"]
    await eventually(lambda: pings() >= before + 20)
    assert one.broker.statistics()["calls"] - calls <= 2 * (20 + 1), "renewals and audits; no questions"


# ---------------------------------------------------------------- one connection


@contextlib.contextmanager
def connected_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
        with client, peer:
            yield client, peer


class _Opened:
    """What `EndDetector` reads of redis-py's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_the_end_of_a_connection_is_seen_before_the_event_loop_has_read_it(reset: bool) -> None:
    with connected_pair() as (client, peer):
        reader, writer = await asyncio.open_connection(sock=client)
        ends = EndDetector(_Opened(reader, writer))
        assert not ends.has_ended()
        peer.sendall(b"what a server says unasked is no end")
        assert not ends.has_ended()
        if reset:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        assert ends.has_ended()
        assert not reader.at_eof()
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_connections_ask_the_kernel_to_keep_them_alive(server: RedisServer) -> None:
    connection = RedisConnection(FixedPrimary(Server.from_url(server.url)), connect_timeout=5.0)
    await connection.open(5.0)
    kernel = connection._connection._writer.get_extra_info("socket")  # noqa: SLF001
    assert kernel.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert kernel.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
    await connection.close()


async def test_a_command_that_depends_on_the_connection_is_not_sent_over_another(server: RedisServer) -> None:
    """WAIT over a new connection would say that a replica has what it may not have."""
    connection = RedisConnection(FixedPrimary(Server.from_url(server.url)), connect_timeout=5.0)
    ping = connection.pack_command(("PING",))
    assert await connection.execute([ping], 5.0) == [b"PONG"]
    kill_connections(server)
    for _ in range(2):
        (answer,) = await connection.execute_next([ping], 5.0)
        assert isinstance(answer, Exception)
    assert await connection.execute([ping], 5.0) == [b"PONG"]
    await connection.close()
