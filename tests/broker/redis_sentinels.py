"""A primary, its replica, and sentinels that put one in the place of the other, all on free ports."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from tests.broker.redis_server import RedisServer, serving

MASTER = "mymaster"
DOWN_AFTER = 1_500
"""Milliseconds of silence after which a sentinel takes a primary for dead."""

QUORUM = 2
CONFIG = "sentinel.conf"
PATIENCE = 20.0


class Sentinel(RedisServer):
    """One of those who watch."""

    READY = "+monitor master"

    def _arguments(self, port: int) -> list[str]:
        where = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        return [str(self._folder / CONFIG), "--sentinel", *where]


class Watched:
    """A primary and a replica, and sentinels that watch them."""

    def __init__(self, folder: Path, *options: str, credentials: str = "", count: int = 3) -> None:
        """Give both servers *options* and *count* sentinels; *credentials* are `user:password@`, for URLs."""
        self._count = count
        self._folder = folder
        self._credentials = credentials
        self.servers = [_server(folder / name, *options) for name in ("one", "two")]
        self.sentinels: list[RedisServer] = []

    @property
    def url(self) -> str:
        """What a broker is given."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{self._credentials}{hosts}/{MASTER}/0"

    @property
    def primary(self) -> RedisServer:
        """The server that the sentinels call the primary now."""
        _, port = self.sentinels[-1].execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def replica(self) -> RedisServer:
        """The other one."""
        return next(server for server in self.servers if server is not self.primary)

    def start(self) -> None:
        one, two = self.servers
        one.start()
        two.start()
        two.execute("REPLICAOF", "127.0.0.1", one.port)
        until(lambda: following(one))
        for number in range(self._count):
            self.sentinels.append(self._sentinel(number))
        for sentinel in self.sentinels:
            until(lambda sentinel=sentinel: self._knows_all(sentinel))

    def promote(self) -> None:
        """Have the sentinels put the replica in the primary's place, and wait until they have."""
        before = self.primary
        self.sentinels[0].execute("SENTINEL", "FAILOVER", MASTER)
        until(lambda: self.primary is not before)

    def part(self) -> None:
        """Let the replica miss what is written from now on, for good."""
        replica = self.replica
        # The primary has no such password, so that the replica is refused whenever it comes back.
        replica.execute("CONFIG", "SET", "masterauth", "wrong")
        replica.execute("CLIENT", "KILL", "TYPE", "master")
        until(lambda: not linked(replica))

    def kill(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()

    def _sentinel(self, number: int) -> RedisServer:
        folder = self._folder / f"sentinel{number}"
        folder.mkdir()
        (folder / CONFIG).write_text(
            f"sentinel monitor {MASTER} 127.0.0.1 {self.servers[0].port} {QUORUM}\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )
        sentinel = Sentinel(folder)
        sentinel.start()
        return sentinel

    def _knows_all(self, sentinel: RedisServer) -> bool:
        others = sentinel.execute("SENTINEL", "SENTINELS", MASTER)
        return len(others) == self._count - 1 and len(sentinel.execute("SENTINEL", "REPLICAS", MASTER)) == 1


@contextlib.contextmanager
def watched(folder: Path, *options: str, credentials: str = "", count: int = 3) -> Iterator[Watched]:
    """Servers and sentinels that run until the end of the block."""
    watched = Watched(folder, *options, credentials=credentials, count=count)
    try:
        watched.start()
        yield watched
    finally:
        watched.kill()


@contextlib.contextmanager
def replicated(folder: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and a replica that run until the end of the block, with nobody who watches them."""
    folders = folder / "primary", folder / "replica"
    for each in folders:
        each.mkdir()
    with (
        serving(folders[0], "--repl-diskless-sync-delay", "0") as primary,
        serving(folders[1], "--replicaof", "127.0.0.1", str(primary.port)) as replica,
    ):
        yield primary, replica


def linked(replica: RedisServer) -> bool:
    """Return whether *replica* hears everything that its primary is told."""
    state = replica.execute("INFO", "replication")
    return bool(state["master_link_status"] == "up")


def following(primary: RedisServer) -> bool:
    """Return whether a replica of *primary* is there and acknowledges what it hears."""
    state = primary.execute("INFO", "replication")
    return any(
        str(name).startswith("slave") and each["state"] == "online"
        for name, each in state.items()
        if isinstance(each, dict)
    )


def until(met: object) -> None:
    """Wait for what the servers agree upon among themselves, and tell nobody."""
    end = time.monotonic() + PATIENCE
    while not met():  # type: ignore[operator]
        assert time.monotonic() < end, "the servers do not agree"
        time.sleep(0.02)


def _server(folder: Path, *options: str) -> RedisServer:
    folder.mkdir(parents=True)
    return RedisServer(folder, *options, "--repl-diskless-sync-delay", "0")
