"""A primary, its replica, and sentinels that fail over between them, all on free ports."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.broker.redis_server import RedisServer, running_redis

PRIMARY_NAME = "mymaster"
DOWN_AFTER_MILLISECONDS = 1_500
"""Silence after which a sentinel considers the primary down."""

QUORUM = 2
CONFIG = "sentinel.conf"
TIMEOUT_SECONDS = 20.0


class Sentinel(RedisServer):
    """One sentinel process."""

    READY = "+monitor master"

    def _arguments(self, port: int) -> list[str]:
        where = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        return [str(self._folder / CONFIG), "--sentinel", *where]


class SentinelSetup:
    """A primary and a replica, and the sentinels that watch them."""

    def __init__(self, folder: Path, *options: str, credentials: str = "", count: int = 3) -> None:
        """Start both servers with *options*; *credentials* are `user:password@`, for the URL."""
        self._count = count
        self._folder = folder
        self._credentials = credentials
        self.servers = [_server(folder / name, *options) for name in ("one", "two")]
        self.sentinels: list[RedisServer] = []

    @property
    def url(self) -> str:
        """The URL for a broker."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{self._credentials}{hosts}/{PRIMARY_NAME}/0"

    @property
    def primary(self) -> RedisServer:
        """The server that the last sentinel names as primary now."""
        _, port = self.sentinels[-1].execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", PRIMARY_NAME)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def replica(self) -> RedisServer:
        """The other server."""
        return next(server for server in self.servers if server is not self.primary)

    def start(self) -> None:
        one, two = self.servers
        one.start()
        two.start()
        two.execute("REPLICAOF", "127.0.0.1", one.port)
        wait_until(lambda: has_replica(one))
        for number in range(self._count):
            self.sentinels.append(self._sentinel(number))
        for sentinel in self.sentinels:
            wait_until(partial(self._knows_all_servers, sentinel))

    def promote(self) -> None:
        """Fail over to the replica as an operator does, and wait until that is done."""
        before = self.primary
        self.sentinels[0].execute("SENTINEL", "FAILOVER", PRIMARY_NAME)
        wait_until(lambda: self.primary is not before)

    def disconnect_replica(self) -> None:
        """Stop replication for good: the replica misses what is written from now on."""
        replica = self.replica
        # The primary has no such password, so that it rejects the replica at every attempt.
        replica.execute("CONFIG", "SET", "masterauth", "wrong")
        replica.execute("CLIENT", "KILL", "TYPE", "master")
        wait_until(lambda: not is_linked(replica))

    def kill(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()

    def _sentinel(self, number: int) -> RedisServer:
        folder = self._folder / f"sentinel{number}"
        folder.mkdir()
        (folder / CONFIG).write_text(
            f"sentinel monitor {PRIMARY_NAME} 127.0.0.1 {self.servers[0].port} {QUORUM}\n"
            f"sentinel down-after-milliseconds {PRIMARY_NAME} {DOWN_AFTER_MILLISECONDS}\n"
            f"sentinel failover-timeout {PRIMARY_NAME} 3000\n"
        )
        sentinel = Sentinel(folder)
        sentinel.start()
        return sentinel

    def _knows_all_servers(self, sentinel: RedisServer) -> bool:
        others = sentinel.execute("SENTINEL", "SENTINELS", PRIMARY_NAME)
        return (
            len(others) == self._count - 1
            and len(sentinel.execute("SENTINEL", "REPLICAS", PRIMARY_NAME)) == 1
        )


@contextlib.contextmanager
def sentinel_setup(
    folder: Path, *options: str, credentials: str = "", count: int = 3
) -> Iterator[SentinelSetup]:
    """Run servers and sentinels until the end of the block."""
    setup = SentinelSetup(folder, *options, credentials=credentials, count=count)
    try:
        setup.start()
        yield setup
    finally:
        setup.kill()


@contextlib.contextmanager
def primary_with_replica(folder: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """Run a primary and a replica, without sentinels, until the end of the block."""
    folders = folder / "primary", folder / "replica"
    for each in folders:
        each.mkdir()
    with (
        running_redis(folders[0], "--repl-diskless-sync-delay", "0") as primary,
        running_redis(folders[1], "--replicaof", "127.0.0.1", str(primary.port)) as replica,
    ):
        yield primary, replica


def is_linked(replica: RedisServer) -> bool:
    """Return whether *replica* is connected to its primary."""
    state = replica.execute("INFO", "replication")
    return bool(state["master_link_status"] == "up")


def has_replica(primary: RedisServer) -> bool:
    """Return whether a replica of *primary* is online."""
    state = primary.execute("INFO", "replication")
    return any(
        str(name).startswith("slave") and each["state"] == "online"
        for name, each in state.items()
        if isinstance(each, dict)
    )


def wait_until(condition: Callable[[], object]) -> None:
    """Poll *condition*, which the servers bring about among themselves, until it is true."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the servers do not agree"
        time.sleep(0.02)


def _server(folder: Path, *options: str) -> RedisServer:
    folder.mkdir(parents=True)
    return RedisServer(folder, *options, "--repl-diskless-sync-delay", "0")
