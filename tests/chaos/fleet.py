"""Many clients and a few backends on one gateway or several, and the verdict on all that they were told."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Protocol

from tests.chaos.checker import check
from tests.chaos.client import Client
from tests.chaos.client_policy import Habits
from tests.chaos.history import History
from tests.chaos.publisher import DOUBTFUL, DOUBTFUL_IN_A_CLUSTER, Publisher
from tests.chaos.verdict import Verdict
from tests.e2e.wire import JSON, MSGPACK, PATIENCE

BRISK = Habits(first=0.02, longest=0.6)
"""A test has no time for the delays of PROTOCOL."""


class Authority(Protocol):
    """Whoever knows how far channels are: a node, or a cluster."""

    async def newest(self, channels: Sequence[str]) -> dict[str, str]:
        """Return the position of each of *channels*."""


class Fleet:
    """Clients and backends of one test, all of whose chances come from one *seed*."""

    def __init__(self, seed: int, tasks: asyncio.TaskGroup, patience: float) -> None:
        self.random = Random(seed)
        self.history = History()
        self.clients: list[Client] = []
        self._seed = seed
        self._backends = itertools.count(1)
        self._tasks = tasks
        self._patience = patience
        self._running: list[asyncio.Task[None]] = []

    @classmethod
    @asynccontextmanager
    async def launch(cls, seed: int, *, patience: float = PATIENCE) -> AsyncIterator["Fleet"]:
        """Run a fleet, which waits *patience* seconds for clients; at the end every one is gone."""
        async with asyncio.TaskGroup() as tasks:
            fleet = cls(seed, tasks, patience)
            try:
                yield fleet
            finally:
                for task in fleet._running:
                    task.cancel()

    async def join(
        self,
        name: str,
        ports: Sequence[int],
        channels: Sequence[str],
        *,
        count: int,
        each: int,
        habits: Habits = BRISK,
    ) -> list[Client]:
        """Let *count* clients come, spread over *ports*; wait until they follow *each* of *channels*."""
        coming = [
            Client(
                f"{name}-{number}",
                _from(number, ports),
                self.random.sample(channels, each),
                self.history,
                random=Random(self.random.random()),
                subprotocol=(JSON, MSGPACK)[number % 2],
                habits=habits,
            )
            for number in range(count)
        ]
        self._running += [self._tasks.create_task(client.run()) for client in coming]
        self.clients += coming
        await self.reach({}, coming)
        return coming

    @asynccontextmanager
    async def publishing(
        self,
        ports: Sequence[int],
        channels: Sequence[str],
        *,
        backends: int = 4,
        rate: float = 100.0,
        size: int = 100,
        timeout: float = PATIENCE,
        insists: float = 0.0,
    ) -> AsyncIterator[Counter[int]]:
        """Publish about *rate* messages a second meanwhile; afterwards no publish is under way.

        Each backend begins at another of *ports*, and *insists* as `Publisher` says. Yields what they were
        answered: complete after the block.
        """
        enough, statuses = asyncio.Event(), Counter[int]()
        async with AsyncExitStack() as open_backends, asyncio.TaskGroup() as speaking:
            for number in range(backends):
                opened = Publisher.open(
                    f"b{next(self._backends)}",
                    _from(number, ports),
                    self.history,
                    random=Random(self.random.random()),
                    timeout=timeout,
                    insists=insists,
                    doubtful=DOUBTFUL if len(ports) == 1 else DOUBTFUL_IN_A_CLUSTER,
                )
                backend = await open_backends.enter_async_context(opened)
                backend.statuses = statuses
                speaking.create_task(backend.run(channels, rate=rate / backends, size=size, until=enough))
            try:
                yield statuses
            finally:
                enough.set()

    def at(self, node: str) -> list[Client]:
        """Return the clients that *node* serves now."""
        return [client for client in self.clients if client.node == node]

    async def reach(self, positions: Mapping[str, str], clients: Iterable[Client] | None = None) -> None:
        """Wait until *clients*, by default all, follow everything and are not behind *positions*."""
        async with asyncio.timeout(self._patience):
            for client in self.clients if clients is None else clients:
                await client.reach(positions)

    async def verdict(self, authority: Authority, channels: Sequence[str], home: Path) -> Verdict:
        """Return what the checker says once everybody had time to hear everything; it must be clean."""
        stuck = ""
        try:
            # What a backend gave up may still be taken: once more, until nothing is new.
            positions: dict[str, str] = {}
            while positions != (positions := await authority.newest(channels)):
                await self.reach(positions)
        except TimeoutError:
            stuck = "not everybody got everything in time\n"
        verdict = check(self.history.events())
        if stuck or not verdict.clean:
            dump = home / "history.jsonl"
            self.history.dump(dump)
            raise AssertionError(f"CHAOS_SEED={self._seed}\n{stuck}{verdict}\nhistory: {dump}")
        return verdict


async def answered(statuses: Counter[int], count: int, *, status: int = 200) -> None:
    """Wait until backends have got *count* more answers with *status*."""
    enough = statuses[status] + count
    async with asyncio.timeout(PATIENCE):
        # Nobody is told when that is.
        while statuses[status] < enough:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _from(number: int, ports: Sequence[int]) -> list[int]:
    """Return *ports* from another one on for each *number*, round about."""
    return [ports[(number + step) % len(ports)] for step in range(len(ports))]
