"""Many clients and publishers on one gateway or a cluster, and the verdict on all that they recorded."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Protocol

from tests.chaos.checker import check
from tests.chaos.client import RecordingClient
from tests.chaos.client_policy import FAST_RECONNECT, ClientPolicy
from tests.chaos.history import History
from tests.chaos.library.application import Application, ApplicationOptions
from tests.chaos.library.node_applications import NodeApplications
from tests.chaos.library.python_application import PythonApplication
from tests.chaos.publisher import (
    UNKNOWN_RESULT_STATUSES,
    UNKNOWN_RESULT_STATUSES_WITH_REDIS,
    Publisher,
)
from tests.chaos.verdict import Verdict
from tests.e2e.clients import JSON, MSGPACK, TIMEOUT_SECONDS


class Observer(Protocol):
    """Who receives the messages of some channels: a client of the tests, or an application."""

    async def wait_for_positions(self, positions: Mapping[str, str]) -> None:
        """Wait until everything up to *positions* was received."""

    def is_at(self, positions: Mapping[str, str]) -> bool:
        """Return whether everything up to *positions* was received, and nothing after it."""


class PositionSource(Protocol):
    """What knows the newest positions of channels: a node, or a cluster."""

    async def newest_positions(self, channels: Sequence[str]) -> dict[str, str]:
        """Return the newest position of each of *channels*."""


class Workload:
    """Clients and publishers of one scenario, all of whose random choices come from one *seed*."""

    def __init__(self, seed: int, tasks: asyncio.TaskGroup, timeout_seconds: float) -> None:
        self.random = Random(seed)
        self.history = History()
        self.clients: list[RecordingClient] = []
        self._seed = seed
        self.applications: list[Application] = []
        self._publisher_numbers = itertools.count(1)
        self._publish_numbers = itertools.count(1)
        self._tasks = tasks
        self._timeout_seconds = timeout_seconds
        self._running: list[asyncio.Task[None]] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, seed: int, *, timeout_seconds: float = TIMEOUT_SECONDS) -> AsyncIterator["Workload"]:
        """Run a workload that waits *timeout_seconds* for its clients; all of them are closed at the end."""
        async with asyncio.TaskGroup() as tasks:
            workload = cls(seed, tasks, timeout_seconds)
            try:
                yield workload
            finally:
                for task in workload._running:
                    task.cancel()

    async def add_clients(
        self,
        name: str,
        ports: Sequence[int],
        channels: Sequence[str],
        *,
        count: int,
        channels_each: int,
        policy: ClientPolicy = FAST_RECONNECT,
    ) -> list[RecordingClient]:
        """Start *count* clients, spread over *ports*, and wait for their subscriptions."""
        added = [
            RecordingClient(
                f"{name}-{number}",
                rotated(ports, number),
                self.random.sample(channels, channels_each),
                self.history,
                random=Random(self.random.random()),
                subprotocol=(JSON, MSGPACK)[number % 2],
                policy=policy,
            )
            for number in range(count)
        ]
        self._running += [self._tasks.create_task(client.run()) for client in added]
        self.clients += added
        await self.wait_for_positions({}, added)
        return added

    @asynccontextmanager
    async def running_applications(
        self, home: Path, options: Mapping[str, Sequence[ApplicationOptions]]
    ) -> AsyncIterator[None]:
        """Run applications on the client libraries, by language; all of them leave nothing behind.

        Args:
            home: The folder of their program and their log.
            options: Of the applications on the library for `python` and for `typescript`.
        """
        async with AsyncExitStack() as stack:
            for each in options.get("python", ()):
                random = Random(self.random.random())
                application = await stack.enter_async_context(
                    PythonApplication.open(each, self.history, random)
                )
                self.applications.append(application)
            if in_node := options.get("typescript", ()):
                node = await stack.enter_async_context(NodeApplications.open(home, in_node, self.history))
                self.applications += node.applications.values()
            await self.wait_for_positions({}, [application.observed for application in self.applications])
            yield
        self.applications.clear()

    async def publish_by_applications(self, seconds: float, *, rate: float = 20.0, size: int = 100) -> None:
        """Let applications publish to their channels for *seconds*, about *rate* messages a second."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with asyncio.TaskGroup() as tasks:
            while loop.time() < end:
                application = self.random.choice(self.applications)
                channel = self.random.choice(application.channels)
                name = f"{application.name}.{next(self._publish_numbers)}"
                tasks.create_task(application.publish(channel, name, size))
                await asyncio.sleep(self.random.uniform(0, 2 / rate))

    @asynccontextmanager
    async def publishing(
        self,
        ports: Sequence[int],
        channels: Sequence[str],
        *,
        publishers: int = 4,
        rate: float = 100.0,
        size: int = 100,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry_seconds: float = 0.0,
    ) -> AsyncIterator[Counter[int]]:
        """Publish about *rate* messages a second meanwhile; after the block no publish is pending.

        Each publisher begins with another one of *ports*; *retry_seconds* is that of `Publisher`. Yields the
        count of each status that was answered: complete after the block.
        """
        stop, statuses = asyncio.Event(), Counter[int]()
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            for number in range(publishers):
                opened = Publisher.open(
                    f"b{next(self._publisher_numbers)}",
                    rotated(ports, number),
                    self.history,
                    random=Random(self.random.random()),
                    timeout_seconds=timeout_seconds,
                    retry_seconds=retry_seconds,
                    unknown_statuses=(
                        UNKNOWN_RESULT_STATUSES if len(ports) == 1 else UNKNOWN_RESULT_STATUSES_WITH_REDIS
                    ),
                )
                publisher = await stack.enter_async_context(opened)
                publisher.statuses = statuses
                tasks.create_task(publisher.run(channels, rate=rate / publishers, size=size, until=stop))
            try:
                yield statuses
            finally:
                stop.set()

    def clients_of(self, node: str) -> list[RecordingClient]:
        """Return the clients that are connected to *node* now."""
        return [client for client in self.clients if client.node == node]

    async def wait_for_positions(
        self,
        positions: Mapping[str, str],
        clients: Iterable[Observer] | None = None,
    ) -> None:
        """Wait until *clients*, by default all, are subscribed to their channels, at least at *positions*."""
        async with asyncio.timeout(self._timeout_seconds):
            for client in self._observers() if clients is None else clients:
                await client.wait_for_positions(positions)

    async def verdict(self, source: PositionSource, channels: Sequence[str], home: Path) -> Verdict:
        """Return the checker's verdict after all clients had time to receive everything.

        Raises:
            AssertionError: There are violations, or a client is behind the positions of *source*; the history
                is written to *home* then.
        """
        timed_out = ""
        try:
            # A publish that was given up may still be stored: repeated until no position changes.
            positions: dict[str, str] = {}
            while positions != (positions := await source.newest_positions(channels)):
                await self.wait_for_positions(positions)
            await self._wait_until_at(positions)
        except TimeoutError:
            timed_out = "not every client received everything in time\n"
        verdict = check(self.history.events())
        if timed_out or not verdict.clean:
            dump = home / "history.jsonl"
            self.history.dump(dump)
            raise AssertionError(f"CHAOS_SEED={self._seed}\n{timed_out}{verdict}\nhistory: {dump}")
        return verdict

    async def _wait_until_at(self, positions: Mapping[str, str]) -> None:
        """Wait until all are exactly at *positions*; a client that was not told of a reset may be beyond."""
        async with asyncio.timeout(self._timeout_seconds):
            # Clients send no notification of their positions.
            while not all(observer.is_at(positions) for observer in self._observers()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def _observers(self) -> list[Observer]:
        return [*self.clients, *(application.observed for application in self.applications)]


async def wait_for_answers(statuses: Counter[int], count: int, *, status: int = 200) -> None:
    """Wait until publishers have got *count* more answers with *status*."""
    target = statuses[status] + count
    async with asyncio.timeout(TIMEOUT_SECONDS):
        # Publishers send no notification of their counts.
        while statuses[status] < target:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def rotated(ports: Sequence[int], by: int) -> list[int]:
    """Return *ports*, beginning with another one for each *by*."""
    return [ports[(by + step) % len(ports)] for step in range(len(ports))]
