"""What a real Redis answers instead of carrying a call out: told, survived, and over when it is over."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from gateway.broker.redis.connection.error_table import ERROR_TABLE
from gateway.errors import BrokerUnavailable
from tests.broker.node import publication, publish
from tests.broker.redis_cluster import ClusterNode
from tests.broker.redis_fleet import Fleet, RunningNode, eventually, wait_until_rejected
from tests.broker.redis_server import RedisServer, running_redis

Trouble = Callable[[RedisServer, Path], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def no_replicas(server: RedisServer, _: Path) -> Iterator[None]:
    server.execute("CONFIG", "SET", "min-replicas-to-write", 1)
    yield
    server.execute("CONFIG", "SET", "min-replicas-to-write", 0)


@contextlib.contextmanager
def unsaved(server: RedisServer, folder: Path) -> Iterator[None]:
    """Have a snapshot fail: a folder is where its file belongs."""
    (folder / "dump.rdb").mkdir()
    server.execute("CONFIG", "SET", "save", "3600 1")
    server.execute("SET", "x", 1)
    server.execute("BGSAVE")
    while server.execute("INFO", "persistence")["rdb_last_bgsave_status"] != "err":
        continue
    yield
    server.execute("CONFIG", "SET", "save", "")


@contextlib.contextmanager
def busy(server: RedisServer, _: Path) -> Iterator[None]:
    """Have somebody's script run without an end."""
    server.execute("CONFIG", "SET", "lua-time-limit", 10)
    with server.client() as stranger:
        connection = stranger.connection_pool.get_connection()
        connection.send_command("EVAL", "while true do end", 0)
        yield
        server.execute("SCRIPT", "KILL")
        with contextlib.suppress(redis.ResponseError):
            connection.read_response()
        stranger.connection_pool.release(connection)


@contextlib.contextmanager
def foreign_key(server: RedisServer, _: Path) -> Iterator[None]:
    server.execute("SET", "fanway:{0}:meta:room", "not ours")
    yield
    server.execute("DEL", "fanway:{0}:meta:room")


@contextlib.contextmanager
def demoted(server: RedisServer, _: Path) -> Iterator[None]:
    """Make a replica of it, whose primary is not there."""
    server.execute("REPLICAOF", "127.0.0.1", 1)
    yield
    server.execute("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def orphaned(server: RedisServer, folder: Path) -> Iterator[None]:
    """Make a replica of it that says nothing without its primary."""
    server.execute("CONFIG", "SET", "replica-serve-stale-data", "no")
    with demoted(server, folder):
        yield


TROUBLES: dict[str, Trouble] = {
    "NOREPLICAS": no_replicas,
    "MISCONF": unsaved,
    "BUSY": busy,
    "WRONGTYPE": foreign_key,
    "READONLY": demoted,
    "MASTERDOWN": orphaned,
}


async def told(member: RunningNode, word: str) -> None:
    """Wait until a publish is refused for that reason, in the words of the table."""

    async def refused() -> bool:
        try:
            await member.broker.publish(publication("room", "in vain"))
        except BrokerUnavailable as error:
            return ERROR_TABLE[word].message in str(error)
        return False

    await eventually(refused)


async def works(member: RunningNode) -> None:
    async def published() -> bool:
        try:
            await member.broker.publish(publication("room", "again"))
        except BrokerUnavailable:
            return False
        return True

    await eventually(published)


@pytest.mark.parametrize("word", TROUBLES)
async def test_a_refusal_is_told_and_over_when_it_is_over(word: str, tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url) as fleet:
            one = await fleet.launch()
            await publish(one.broker, "room", "before")
            with TROUBLES[word](server, tmp_path):
                await told(one, word)
            await works(one)


@pytest.mark.parametrize("word", ["NOREPLICAS", "MISCONF", "READONLY"])
async def test_what_takes_no_write_is_read_where_that_needs_none(word: str, tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url) as fleet:
            one = await fleet.launch(lease=30.0)
            (id,) = await publish(one.broker, "room", "before")
            with TROUBLES[word](server, tmp_path):
                assert (await one.broker.read("room")).position == id


async def test_a_redis_that_is_loading_is_waited_for(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, server.client() as client:
        client.mset({f"x{number}": os.urandom(1024) for number in range(600)})
        client.save()
    # A minute for all of it, unless it is told to go on; it listens to that ten times a second.
    slow = ("--key-load-delay", "100000", "--loading-process-events-interval-bytes", "1024")
    loading = Loading(tmp_path, *slow)
    try:
        loading.start()
        async with Fleet(loading.url) as fleet:
            one = await fleet.launch(start_timeout=0.2)
            assert not one.broker.ready()
            await told(one, "LOADING")
            loading.execute("CONFIG", "SET", "key-load-delay", 0)
            await works(one)
    finally:
        loading.kill()


class Loading(RedisServer):
    """A Redis that listens, and has not read yet what it keeps."""

    READY = "Server initialized"


async def says(fleet: Fleet, why: str) -> None:
    await wait_until_rejected(await fleet.launch(start_timeout=0.0), why)


async def test_a_database_that_is_not_there_is_told(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url.removesuffix("0") + "99") as fleet:
            await wait_until_rejected(
                await fleet.launch(start_timeout=0.0), f"no database of that number.*127.0.0.1:{server.port}"
            )


async def test_a_redis_that_is_no_cluster_is_told(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url, cluster=True) as fleet:
            await wait_until_rejected(
                await fleet.launch(start_timeout=0.0), "this Redis is no Cluster: set broker.cluster = false"
            )


async def test_a_redis_that_is_not_there_is_named(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        pass
    async with Fleet(server.url) as fleet:
        await wait_until_rejected(
            await fleet.launch(start_timeout=0.0), f"connection to Redis failed.*127.0.0.1:{server.port}"
        )


@pytest.mark.parametrize("cluster", [False, True])
async def test_a_redis_that_hangs_is_named(tmp_path: Path, cluster: bool) -> None:
    with running_redis(tmp_path) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            async with Fleet(server.url, cluster=cluster) as fleet:
                one = await fleet.launch(start_timeout=0.0)
                await wait_until_rejected(one, rf"^Redis did not answer in time \(127.0.0.1:{server.port}\)$")
        finally:
            os.kill(server.pid, signal.SIGCONT)


async def test_a_cluster_without_all_of_its_slots_is_down(tmp_path: Path) -> None:
    node = ClusterNode(tmp_path)
    try:
        node.start()
        node.execute("CLUSTER", "ADDSLOTSRANGE", 0, 16_000)
        async with Fleet(node.url, cluster=True) as fleet:
            one = await fleet.launch(start_timeout=0.2)
            await told(one, "CLUSTERDOWN")
            node.execute("CLUSTER", "ADDSLOTSRANGE", 16_001, 16_383)
            await works(one)
    finally:
        node.kill()
