"""A Redis Cluster on free ports: three primaries, with replicas for tests that kill a primary."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.broker.redis_server import RedisServer, free_port

SLOTS = 16_384
NODE_TIMEOUT_MILLISECONDS, NODE_TIMEOUT_WITHOUT_REPLICAS_MILLISECONDS = 1_500, 60_000
"""Silence after which a node counts as down: short where a replica takes over."""
TIMEOUT_SECONDS = 20.0
"""For the nodes to agree on a state; they need two or three."""


class ClusterNode(RedisServer):
    """A Redis in cluster mode."""

    bus = 0
    """The port of the cluster bus."""

    def _arguments(self, port: int) -> list[str]:
        # The same bus port again if this node is restarted.
        self.bus = self.bus if self.port else free_port()
        options = ["--cluster-enabled", "yes", "--repl-diskless-sync-delay", "0"]
        return [*super()._arguments(port), *options, "--cluster-port", str(self.bus)]


class RedisCluster:
    """Primaries that share the slots evenly, each with the same number of replicas."""

    def __init__(self, folder: Path, *, primaries: int = 3, replicas: int = 0) -> None:
        """Keep the files of each node in its own folder below *folder*."""
        timeout = (
            "--cluster-node-timeout",
            str(NODE_TIMEOUT_MILLISECONDS if replicas else NODE_TIMEOUT_WITHOUT_REPLICAS_MILLISECONDS),
        )
        self.primaries = [_node(folder / f"primary{number}", *timeout) for number in range(primaries)]
        self.replicas = [
            _node(folder / f"replica{number}", *timeout) for number in range(primaries * replicas)
        ]

    @property
    def nodes(self) -> Sequence[ClusterNode]:
        return [*self.primaries, *self.replicas]

    @property
    def urls(self) -> list[str]:
        """The URLs of two nodes: a broker has to discover the others."""
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
        self._wait_for_all(lambda node: len(self._known(node)) == len(self.nodes))
        for number, replica in enumerate(self.replicas):
            primary = self.primaries[number % len(self.primaries)]
            replica.execute("CLUSTER", "REPLICATE", primary.execute("CLUSTER", "MYID"))
        self._wait_for_all(lambda node: b"cluster_state:ok" in node.execute("CLUSTER", "INFO"))
        for replica in self.replicas:
            _wait(lambda replica=replica: b"master_link_status:up" in _raw(replica, "INFO", "replication"))

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def execute(self, *command: str | bytes | float) -> None:
        """Execute *command* on every primary."""
        for node in self.primaries:
            node.execute(*command)

    def age(self, seconds: float) -> None:
        """Make all keys older by *seconds*."""
        for node in self.primaries:
            node.age(seconds)

    def primary_of(self, key: str) -> RedisServer:
        """Return the node that is the primary for *key* now."""
        slot = next(node for node in self.nodes if node.running).execute("CLUSTER", "KEYSLOT", key)
        return next(node for node in self.nodes if node.running and slot in _slots(node))

    def move_slot(self, key: str, to: RedisServer) -> None:
        """Move the slot of *key* and its keys *to* another primary, as `redis-cli --cluster reshard` does."""
        source, slot = self.begin_slot_move(key, to)
        there = to.execute("CLUSTER", "MYID")
        while keys := source.execute("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.execute("MIGRATE", "127.0.0.1", to.port, "", 0, 5_000, "KEYS", *keys)
        for node in (to, source, *self.primaries):
            node.execute("CLUSTER", "SETSLOT", slot, "NODE", there)

    def begin_slot_move(self, key: str, to: RedisServer) -> tuple[RedisServer, int]:
        """Mark the slot of *key* as moving *to* that primary; return its present primary and its number."""
        source = self.primary_of(key)
        slot: int = source.execute("CLUSTER", "KEYSLOT", key)
        to.execute("CLUSTER", "SETSLOT", slot, "IMPORTING", source.execute("CLUSTER", "MYID"))
        source.execute("CLUSTER", "SETSLOT", slot, "MIGRATING", to.execute("CLUSTER", "MYID"))
        return source, slot

    def _known(self, node: RedisServer) -> list[bytes]:
        lines: list[bytes] = _raw(node, "CLUSTER", "NODES").splitlines()
        return [line for line in lines if b"handshake" not in line]

    def _wait_for_all(self, condition: Any) -> None:
        for node in self.nodes:
            _wait(lambda node=node: condition(node))


@contextlib.contextmanager
def running_cluster(folder: Path, *, replicas: int = 0) -> Iterator[RedisCluster]:
    """Run a Cluster until the end of the block."""
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
    """Return an answer unparsed; redis-py would parse it."""
    with node.client() as client:
        client.response_callbacks.clear()
        answer: bytes = client.execute_command(*command)
        return answer


def _wait(condition: Any) -> None:
    """Poll *condition*, which the nodes bring about among themselves, until it is true."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the nodes do not agree"
        time.sleep(0.02)
