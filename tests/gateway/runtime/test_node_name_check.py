"""The warning about two live nodes of one name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway.broker.base import NodeRecord
from gateway.clock import FakeClock
from gateway.errors import BrokerUnavailable
from gateway.runtime.node_name_check import NodeNameCheck
from gateway.tasks import Tasks

DELAY = 10.0


def node(name: str) -> NodeRecord:
    return NodeRecord(name, connections=0, channels=0, subscriptions=0, uptime=1.0)


@dataclass
class Cluster:
    """The live nodes, and a check by the one with the name "n1"."""

    nodes: list[NodeRecord]
    failures: int = 0
    """Lookups that fail before the first that succeeds."""
    lookups: int = 0
    warnings: int = 0
    clock: FakeClock = field(default_factory=FakeClock)
    tasks: Tasks = field(init=False)

    async def list_nodes(self) -> list[NodeRecord]:
        self.lookups += 1
        if self.lookups <= self.failures:
            raise BrokerUnavailable("redis is away")
        return self.nodes

    def warn(self) -> None:
        self.warnings += 1

    @asynccontextmanager
    async def checking(self) -> AsyncIterator[None]:
        tasks = Tasks(lambda error: pytest.fail(f"unexpected: {error!r}"))
        check = NodeNameCheck(
            "n1", self.list_nodes, scheduler=self.clock, tasks=tasks, delay=DELAY, on_duplicate=self.warn
        )
        check.start()
        self.tasks = tasks
        yield
        check.close()
        await tasks.close()

    async def advance(self, seconds: float) -> None:
        """Advance the clock, and wait until the check that is due by then has ended."""
        self.clock.advance(seconds)
        while self.tasks.statistics()["running"]:  # noqa: ASYNC110 (ends within a few turns)
            await asyncio.sleep(0)


async def test_another_node_of_the_same_name_is_reported_once_after_the_delay() -> None:
    cluster = Cluster([node("n1"), node("n2"), node("n1")])
    async with cluster.checking():
        await cluster.advance(DELAY - 0.1)
        assert (cluster.lookups, cluster.warnings) == (0, 0)
        await cluster.advance(0.1)
        assert (cluster.lookups, cluster.warnings) == (1, 1)
        await cluster.advance(10 * DELAY)
        assert (cluster.lookups, cluster.warnings) == (1, 1)


async def test_a_name_that_only_one_node_has_is_not_reported() -> None:
    cluster = Cluster([node("n1"), node("n2"), node("n2")])
    async with cluster.checking():
        await cluster.advance(DELAY)
    assert (cluster.lookups, cluster.warnings) == (1, 0)


async def test_the_check_is_repeated_while_the_broker_is_unavailable() -> None:
    cluster = Cluster([node("n1"), node("n1")], failures=2)
    async with cluster.checking():
        for lookups in (1, 2):
            await cluster.advance(DELAY)
            assert (cluster.lookups, cluster.warnings) == (lookups, 0)
        await cluster.advance(DELAY)
    assert (cluster.lookups, cluster.warnings) == (3, 1)


async def test_no_check_runs_after_close() -> None:
    cluster = Cluster([node("n1"), node("n1")])
    async with cluster.checking():
        pass
    await cluster.advance(DELAY)
    assert (cluster.lookups, cluster.warnings) == (0, 0)
