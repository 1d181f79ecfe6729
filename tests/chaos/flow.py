"""One direction of a connection, carried as well or as badly as wanted at this moment."""

import asyncio
import math
import socket
from contextlib import suppress
from dataclasses import dataclass
from random import Random

WINDOW = 16
"""Pieces under way at once; a source that is ahead of it is not read."""

PIECE = 4 * 1024

STEP = 0.02
"""Seconds of a line's rate that are sent at once."""

FRAGMENT = 40
"""Bytes that a line leaves together where it splits, on average."""


@dataclass(frozen=True, slots=True)
class Line:
    """How bytes travel."""

    delay: float = 0.0
    """Seconds that each is under way."""
    rate: float = math.inf
    """How many arrive in a second."""
    split: bool = False
    """Whether what was written at once arrives in pieces, cut at random points."""
    blocked: bool = False
    """Nothing arrives, not even the end; it comes later if the line ever opens."""

    def size(self, left: int, random: Random) -> int:
        """Return how many of the *left* bytes go in the next write."""
        if self.rate < math.inf:
            left = min(left, max(1, int(self.rate * STEP)))
        return min(left, 1 + int(random.expovariate(1 / FRAGMENT))) if self.split else left


CLEAR = Line()


class Flow:
    """Carries bytes from *source* to *target* until the end of the source."""

    def __init__(self, source: socket.socket, target: socket.socket, line: Line, random: Random) -> None:
        self._source = source
        self._target = target
        self._line = line
        self._random = random
        self._changed = asyncio.Event()
        self._way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WINDOW)
        self._busy: tuple[float, int] = (0.0, 0)
        """When something was sent last, and how much."""
        self.carried = 0
        """Bytes that arrived."""

    @property
    def line(self) -> Line:
        """How bytes travel from now on, those included that are under way."""
        return self._line

    @line.setter
    def line(self, line: Line) -> None:
        self._line = line
        self._changed.set()

    async def run(self) -> None:
        """Carry everything, the end of the source included; `OSError` where one of the sockets breaks."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take())
            tasks.create_task(self._bring())

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._source, PIECE):
            await self._way.put((loop.time(), data))
        await self._way.put((loop.time(), b""))

    async def _bring(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            taken, data = await self._way.get()
            await self._due(taken)
            if not data:
                self._target.shutdown(socket.SHUT_WR)
                return
            while data:
                await self._due(taken)
                size = self._line.size(len(data), self._random)
                await loop.sock_sendall(self._target, data[:size])
                self._busy, data = (loop.time(), size), data[size:]
                self.carried += size
                if data:
                    # The other end reads what it has before there is more.
                    await asyncio.sleep(0)

    async def _due(self, taken: float) -> None:
        """Wait until the line lets through what was *taken* then; a change of the line counts at once."""
        loop = asyncio.get_running_loop()
        while (left := self._moment(taken) - loop.time()) > 0:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left if left < math.inf else None):
                    await self._changed.wait()

    def _moment(self, taken: float) -> float:
        sent, size = self._busy
        return (
            math.inf if self._line.blocked else max(taken + self._line.delay, sent + size / self._line.rate)
        )

    def __repr__(self) -> str:
        return f"<Flow {self._line} carried {self.carried} bytes>"
