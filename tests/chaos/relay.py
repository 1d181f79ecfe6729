"""One direction of a proxied connection, under network conditions that can change at any moment."""

import asyncio
import math
import socket
from contextlib import suppress
from dataclasses import dataclass
from random import Random

QUEUED_PIECES = 16
"""Pieces that a relay holds at most by default; while it is full, the source is not read."""

PIECE_BYTES = 4 * 1024

RATE_STEP_SECONDS = 0.02
"""A limited rate is spent in writes of this many seconds' worth of bytes."""

MEAN_FRAGMENT_BYTES = 40
"""The mean size of a write where the conditions are *fragmented*."""


@dataclass(frozen=True, slots=True)
class LinkConditions:
    """How bytes travel in one direction."""

    delay_seconds: float = 0.0
    bytes_per_second: float = math.inf
    fragmented: bool = False
    """Whether what was written at once arrives in pieces, cut at random points."""
    blocked: bool = False
    """Nothing arrives, not even the end of the stream, until the conditions change."""

    def write_size(self, remaining: int, random: Random) -> int:
        """Return how many of the *remaining* bytes the next write has."""
        if self.bytes_per_second < math.inf:
            remaining = min(remaining, max(1, int(self.bytes_per_second * RATE_STEP_SECONDS)))
        if not self.fragmented:
            return remaining
        return min(remaining, 1 + int(random.expovariate(1 / MEAN_FRAGMENT_BYTES)))


UNIMPAIRED = LinkConditions()


class Relay:
    """Copies bytes from *source* to *target* until the end of the source."""

    def __init__(
        self,
        source: socket.socket,
        target: socket.socket,
        conditions: LinkConditions,
        random: Random,
        queued_pieces: int = QUEUED_PIECES,
    ) -> None:
        self._source = source
        self._target = target
        self._conditions = conditions
        self._random = random
        self._conditions_changed = asyncio.Event()
        self._pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(queued_pieces)
        """Each piece with the time at which it was read."""
        self._last_write: tuple[float, int] = (0.0, 0)
        """The time and the size of the last write."""
        self.relayed_bytes = 0

    @property
    def conditions(self) -> LinkConditions:
        """How bytes travel from now on, including those that are queued."""
        return self._conditions

    @conditions.setter
    def conditions(self, conditions: LinkConditions) -> None:
        self._conditions = conditions
        self._conditions_changed.set()

    async def run(self) -> None:
        """Copy everything, including the end of the source; `OSError` where one of the sockets breaks."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read())
            tasks.create_task(self._write())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._source, PIECE_BYTES):
            await self._pieces.put((loop.time(), data))
        await self._pieces.put((loop.time(), b""))

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            read_at, data = await self._pieces.get()
            await self._wait_until_due(read_at)
            if not data:
                self._target.shutdown(socket.SHUT_WR)
                return
            while data:
                await self._wait_until_due(read_at)
                size = self._conditions.write_size(len(data), self._random)
                await loop.sock_sendall(self._target, data[:size])
                self._last_write, data = (loop.time(), size), data[size:]
                self.relayed_bytes += size
                if data:
                    # Lets the other end read this fragment before the next one is written.
                    await asyncio.sleep(0)

    async def _wait_until_due(self, read_at: float) -> None:
        """Wait until a piece that was read at *read_at* may be written; changed conditions apply at once."""
        loop = asyncio.get_running_loop()
        while (remaining := self._due_at(read_at) - loop.time()) > 0:
            self._conditions_changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(remaining if remaining < math.inf else None):
                    await self._conditions_changed.wait()

    def _due_at(self, read_at: float) -> float:
        if self._conditions.blocked:
            return math.inf
        written_at, size = self._last_write
        return max(
            read_at + self._conditions.delay_seconds, written_at + size / self._conditions.bytes_per_second
        )

    def __repr__(self) -> str:
        return f"<Relay {self._conditions} relayed {self.relayed_bytes} bytes>"
