"""Errors of a real Redis: each is reported to the caller, until its cause is gone."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from gateway.broker.redis.connection.error_table import ERROR_TABLE
from gateway.errors import BrokerUnavailable
from tests.broker.recording_node import publication, publish
from tests.broker.redis_cluster import ClusterNode
from tests.broker.redis_fleet import Fleet, RunningNode, eventually, wait_until_rejected
from tests.broker.redis_server import RedisServer, running_redis

Fault = Callable[[RedisServer, Path], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def no_replicas(server: RedisServer, _: Path) -> Iterator[None]:
    server.execute("CONFIG", "SET", "min-replicas-to-write", 1)
    yield
    server.execute("CONFIG", "SET", "min-replicas-to-write", 0)


@contextlib.contextmanager
def failing_snapshots(server: RedisServer, folder: Path) -> Iterator[None]:
    """Make snapshots fail: a folder is in the place of the file."""
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
    """Run a script that does not end, from another client."""
    server.execute("CONFIG", "SET", "lua-time-limit", 10)
    with server.client() as other_client:
        connection = other_client.connection_pool.get_connection()
        connection.send_command("EVAL", "while true do end", 0)
        yield
        server.execute("SCRIPT", "KILL")
        with contextlib.suppress(redis.ResponseError):
            connection.read_response()
        other_client.connection_pool.release(connection)


@contextlib.contextmanager
def foreign_key(server: RedisServer, _: Path) -> Iterator[None]:
    server.execute("SET", "fanway:{0}:meta:room", "of another application")
    yield
    server.execute("DEL", "fanway:{0}:meta:room")


@contextlib.contextmanager
def demoted(server: RedisServer, _: Path) -> Iterator[None]:
    """Make it the replica of a primary that does not exist."""
    server.execute("REPLICAOF", "127.0.0.1", 1)
    yield
    server.execute("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def demoted_without_stale_reads(server: RedisServer, folder: Path) -> Iterator[None]:
    """As `demoted`, but it also rejects reads."""
    server.execute("CONFIG", "SET", "replica-serve-stale-data", "no")
    with demoted(server, folder):
        yield


FAULTS: dict[str, Fault] = {
    "NOREPLICAS": no_replicas,
    "MISCONF": failing_snapshots,
    "BUSY": busy,
    "WRONGTYPE": foreign_key,
    "READONLY": demoted,
    "MASTERDOWN": demoted_without_stale_reads,
}


async def wait_for_error(member: RunningNode, word: str) -> None:
    """Wait until a publish fails with the message of that rule."""

    async def rejected() -> bool:
        try:
            await member.broker.publish(publication("room", "rejected"))
        except BrokerUnavailable as error:
            return ERROR_TABLE[word].message in str(error)
        return False

    await eventually(rejected)


async def wait_until_published(member: RunningNode) -> None:
    async def published() -> bool:
        try:
            await member.broker.publish(publication("room", "again"))
        except BrokerUnavailable:
            return False
        return True

    await eventually(published)


@pytest.mark.parametrize("word", FAULTS)
async def test_an_error_is_reported_until_its_cause_is_gone(word: str, tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url) as fleet:
            one = await fleet.launch()
            await publish(one.broker, "room", "before")
            with FAULTS[word](server, tmp_path):
                await wait_for_error(one, word)
            await wait_until_published(one)


@pytest.mark.parametrize("word", ["NOREPLICAS", "MISCONF", "READONLY"])
async def test_a_redis_that_rejects_writes_is_still_read(word: str, tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url) as fleet:
            one = await fleet.launch(lease=30.0)
            (id,) = await publish(one.broker, "room", "before")
            with FAULTS[word](server, tmp_path):
                assert (await one.broker.read("room")).position == id


async def test_a_loading_redis_is_reported_and_used_once_loaded(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, server.client() as client:
        client.mset({f"x{number}": os.urandom(1024) for number in range(600)})
        client.save()
    # It loads for a minute unless the delay is removed, which it notices ten times a second.
    slow = ("--key-load-delay", "100000", "--loading-process-events-interval-bytes", "1024")
    loading = LoadingRedis(tmp_path, *slow)
    try:
        loading.start()
        async with Fleet(loading.url) as fleet:
            one = await fleet.launch(start_timeout=0.2)
            assert not one.broker.ready()
            await wait_for_error(one, "LOADING")
            loading.execute("CONFIG", "SET", "key-load-delay", 0)
            await wait_until_published(one)
    finally:
        loading.kill()


class LoadingRedis(RedisServer):
    """A Redis that accepts connections while it is loading its data."""

    READY = "Server initialized"


async def says(fleet: Fleet, why: str) -> None:
    await wait_until_rejected(await fleet.launch(start_timeout=0.0), why)


async def test_a_database_number_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url.removesuffix("0") + "99") as fleet:
            await wait_until_rejected(
                await fleet.launch(start_timeout=0.0), f"no database of that number.*127.0.0.1:{server.port}"
            )


async def test_a_redis_that_is_no_cluster_is_reported(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url, cluster=True) as fleet:
            await wait_until_rejected(
                await fleet.launch(start_timeout=0.0),
                "this Redis is not a Cluster: set broker.cluster = false",
            )


async def test_the_error_of_a_redis_that_is_down_has_its_address(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        pass
    async with Fleet(server.url) as fleet:
        await wait_until_rejected(
            await fleet.launch(start_timeout=0.0), f"connection to Redis failed.*127.0.0.1:{server.port}"
        )


@pytest.mark.parametrize("cluster", [False, True])
async def test_the_error_of_a_redis_that_hangs_has_its_address(tmp_path: Path, cluster: bool) -> None:
    with running_redis(tmp_path) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            async with Fleet(server.url, cluster=cluster) as fleet:
                one = await fleet.launch(start_timeout=0.0)
                await wait_until_rejected(one, rf"^Redis did not answer in time \(127.0.0.1:{server.port}\)$")
        finally:
            os.kill(server.pid, signal.SIGCONT)


async def test_a_cluster_with_unassigned_slots_is_down(tmp_path: Path) -> None:
    node = ClusterNode(tmp_path)
    try:
        node.start()
        node.execute("CLUSTER", "ADDSLOTSRANGE", 0, 16_000)
        async with Fleet(node.url, cluster=True) as fleet:
            one = await fleet.launch(start_timeout=0.2)
            await wait_for_error(one, "CLUSTERDOWN")
            node.execute("CLUSTER", "ADDSLOTSRANGE", 16_001, 16_383)
            await wait_until_published(one)
    finally:
        node.kill()
