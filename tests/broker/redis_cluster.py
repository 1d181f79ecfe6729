"""A Redis Cluster on free ports: three primaries, and replicas where a test wants to lose a primary."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.broker.redis_server import RedisServer, free_port

SLOTS = 16_384
DOWN_AFTER, NEVER = 1_500, 60_000
"""Milliseconds of silence after which a node counts as down: where replicas take over, and elsewhere."""
PATIENCE = 20.0
"""Seconds that the nodes may take to agree; they need two or three."""


class ClusterNode(RedisServer):
    """A Redis that others may meet."""

    bus = 0
    """The port on which they talk among themselves."""

    def _arguments(self, port: int) -> list[str]:
        # The one from before only where it is the same node that comes back.
        self.bus = self.bus if self.port else free_port()
        options = ["--cluster-enabled", "yes", "--repl-diskless-sync-delay", "0"]
        return [*super()._arguments(port), *options, "--cluster-port", str(self.bus)]


class RedisCluster:
    """Primaries that share the slots evenly, each with as many replicas as wanted."""

    def __init__(self, folder: Path, *, primaries: int = 3, replicas: int = 0) -> None:
        """Keep every node's files in a folder of its own below *folder*."""
        timeout = ("--cluster-node-timeout", str(DOWN_AFTER if replicas else NEVER))
        self.primaries = [_node(folder / f"primary{number}", *timeout) for number in range(primaries)]
        self.replicas = [
            _node(folder / f"replica{number}", *timeout) for number in range(primaries * replicas)
        ]

    @property
    def nodes(self) -> Sequence[ClusterNode]:
        return [*self.primaries, *self.replicas]

    @property
    def urls(self) -> list[str]:
        """Two of the nodes: the others have to be found."""
        return [node.url for node in self.primaries[:2]]

    def start(self) -> None:
        """Start every node, and wait until they are one Cluster."""
        for node in self.nodes:
            node.start()
        for number, node in enumerate(self.primaries):
            first, last = (SLOTS * at // len(self.primaries) for at in (number, number + 1))
            node.execute("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
            node.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            node.execute("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, self.nodes[0].bus)
        self._until(lambda node: len(self._known(node)) == len(self.nodes))
        for number, replica in enumerate(self.replicas):
            primary = self.primaries[number % len(self.primaries)]
            replica.execute("CLUSTER", "REPLICATE", primary.execute("CLUSTER", "MYID"))
        self._until(lambda node: b"cluster_state:ok" in node.execute("CLUSTER", "INFO"))
        for replica in self.replicas:
            _wait(lambda replica=replica: b"master_link_status:up" in _raw(replica, "INFO", "replication"))

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def execute(self, *command: str | bytes | float) -> None:
        """Have every primary carry out *command*."""
        for node in self.primaries:
            node.execute(*command)

    def age(self, seconds: float) -> None:
        """Make everything older by *seconds*."""
        for node in self.primaries:
            node.age(seconds)

    def owner(self, key: str) -> RedisServer:
        """Return the node that has *key* now."""
        slot = next(node for node in self.nodes if node.running).execute("CLUSTER", "KEYSLOT", key)
        return next(node for node in self.nodes if node.running and slot in _slots(node))

    def move(self, key: str, to: RedisServer) -> None:
        """Give the slot of *key*, and all that is in it, *to* another primary, as `redis-cli` reshards."""
        source, slot = self.open(key, to)
        there = to.execute("CLUSTER", "MYID")
        while keys := source.execute("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.execute("MIGRATE", "127.0.0.1", to.port, "", 0, 5_000, "KEYS", *keys)
        for node in (to, source, *self.primaries):
            node.execute("CLUSTER", "SETSLOT", slot, "NODE", there)

    def open(self, key: str, to: RedisServer) -> tuple[RedisServer, int]:
        """Begin to move the slot of *key*; return who has it, and its number."""
        source = self.owner(key)
        slot: int = source.execute("CLUSTER", "KEYSLOT", key)
        to.execute("CLUSTER", "SETSLOT", slot, "IMPORTING", source.execute("CLUSTER", "MYID"))
        source.execute("CLUSTER", "SETSLOT", slot, "MIGRATING", to.execute("CLUSTER", "MYID"))
        return source, slot

    def _known(self, node: RedisServer) -> list[bytes]:
        lines: list[bytes] = _raw(node, "CLUSTER", "NODES").splitlines()
        return [line for line in lines if b"handshake" not in line]

    def _until(self, met: Any) -> None:
        for node in self.nodes:
            _wait(lambda node=node: met(node))


@contextlib.contextmanager
def clustered(folder: Path, *, replicas: int = 0) -> Iterator[RedisCluster]:
    """A Cluster that runs until the end of the block."""
    cluster = RedisCluster(folder, replicas=replicas)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


def _node(folder: Path, *options: str) -> "ClusterNode":
    folder.mkdir(parents=True)
    return ClusterNode(folder, *options)


def _slots(node: RedisServer) -> set[int]:
    own = node.execute("CLUSTER", "MYID")
    found: set[int] = set()
    for first, last, primary, *_ in node.execute("CLUSTER", "SLOTS"):
        if primary[2] == own:
            found.update(range(first, last + 1))
    return found


def _raw(node: RedisServer, *command: str) -> bytes:
    """Return an answer that redis-py would parse, as it came."""
    with node.client() as client:
        client.response_callbacks.clear()
        answer: bytes = client.execute_command(*command)
        return answer


def _wait(met: Any) -> None:
    """Wait for what the nodes agree upon among themselves, and tell nobody."""
    until = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < until, "the nodes do not agree"
        time.sleep(0.02)
