"""A bystander in a process of its own, whose round trips say how much others notice of an attack."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

WAIT_SECONDS = 20


class RoundTrip(NamedTuple):
    """One message, from its publish to its arrival."""

    began: float
    """By the machine's monotonic clock."""
    took: float
    """Seconds."""
    work: float
    """Seconds of CPU time that the watched processes used meanwhile; whatever else the machine does."""


class LatencyProbe:
    """The process that measures latency (`tests/e2e/latency_probe.py`)."""

    def __init__(self, process: subprocess.Popen[bytes], received: Path) -> None:
        self.process = process
        self._received = received

    def round_trips(self, since: float) -> list[RoundTrip]:
        """Return those whose message was published after *since*."""
        lines = self._received.read_text().splitlines(keepends=True)
        trips = (RoundTrip(*map(float, line.split())) for line in lines if line.endswith("\n"))
        return [each for each in trips if each.began >= since]

    async def wait_for_round_trip(self) -> None:
        """Wait for the echo of something that is published from now on."""
        await self.wait_for_round_trips(1)

    async def wait_for_round_trips(self, count: int) -> list[RoundTrip]:
        """Return the first *count* round trips that begin from now on."""
        now = time.monotonic()
        async with asyncio.timeout(WAIT_SECONDS + count):
            while len(trips := self.round_trips(now)) < count:
                assert self.process.poll() is None, "the latency probe failed"
                await asyncio.sleep(0.01)
        return trips[:count]


@contextmanager
def latency_probe(
    port: int, home: Path, *, channel: str = "calm", watched: Sequence[int] = ()
) -> Iterator[LatencyProbe]:
    """Run a probe on the gateway at *port*, alone in *channel*; it must end without an error.

    The CPU time of the processes *watched* is measured for each round trip.
    """
    received = home / "received"
    with received.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.latency_probe", str(port), channel, *map(str, watched)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=file,
        )
    with process:
        try:
            yield LatencyProbe(process, received)
            process.communicate(timeout=WAIT_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that *share* of *values* do not exceed."""
    return sorted(values)[int(len(values) * share)]
