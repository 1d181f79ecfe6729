"""How much of what was missed one reply tells: its channels share it, in the order in which it names them.

They are fetched at the same time, so that the last does not wait for the first; but the answers come in any
order, and who comes first in the reply is served first. So everybody fetches what those before it are known
to leave, and gives some of it up again where one of those turns out to have more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import takewhile
from typing import Protocol

READS = 16
"""Channels whose history is fetched at once for one reply.

A fetch may bring half an outbox, 512 KiB. For 128 channels at once that would be 64 MiB for one client,
most of it read for nothing, as the reply has room for one of them. So at most 16 fetches, 8 MiB, are under
way, beside what is kept for the reply. Pages come from a shared cache (`hub.history_cache`), but a page in
use stays in memory after the cache has dropped it: the 4 MiB of the cache are no bound for this. Calls that
bring no messages, such as routing and joining, are not counted: they travel together.
"""


class Part(Protocol):
    """What one channel has for the reply."""

    @property
    def size(self) -> int:
        """Bytes, about."""

    def cut(self, room: int) -> None:
        """Keep what fits into *room* bytes."""


class ReplyBudget:
    """The bytes of one reply."""

    __slots__ = ("_channels", "_parts", "_size", "_turns", "_wanted")

    def __init__(self, size: int, channels: Iterable[str], *, wanted: Callable[[], None]) -> None:
        """Share *size* bytes among *channels*, in this order; *wanted* raises once nobody waits for them."""
        self._size = size
        self._channels = channels
        self._parts: dict[str, Part] = {}
        self._wanted = wanted
        self._turns: asyncio.Semaphore | None = None

    def left_to(self, channel: str) -> int:
        """Return how many bytes those before *channel* leave to it, as far as is known."""
        before = takewhile(channel.__ne__, self._channels)
        return self._size - sum(self._parts[name].size for name in before if name in self._parts)

    def keep(self, channel: str, part: Part) -> None:
        """Have *part* told of *channel*, and every part cut to what those before it leave."""
        if not part.size:
            return
        self._parts[channel] = part
        left = self._size
        for name in self._channels:
            if (each := self._parts.get(name)) is not None:
                if each.size > left:
                    each.cut(left)
                left -= each.size

    def give_up(self, channel: str) -> None:
        """Have nothing told of *channel*: it is refused after all."""
        self._parts.pop(channel, None)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until fewer than `READS` fetch, and be one of them; raise where nobody wants it any more."""
        if self._turns is None:
            self._turns = asyncio.Semaphore(READS)
        async with self._turns:
            self._wanted()
            yield
