"""The bytes of missed messages that one reply may hold, shared by its channels in the order of the reply.

The histories of all channels are read at the same time, so that the last channel does not wait for the first.
But the answers come in any order, and the channel that is first in the reply has the first claim. So each
reads what the channels before it are known to leave, and gives some of it up if one of those turns out to
have more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import takewhile
from typing import Protocol

from gateway.memory import MemoryBudget

CONCURRENT_READS = 16
"""Channels whose history is read at the same time for one reply.

A read may bring half an outbox, 512 KiB. For 128 channels at once that would be 64 MiB for one client,
most of it read for nothing, as the reply has room for one of them. So at most 16 reads, 8 MiB, are under
way, beside what is kept for the reply. Pages come from a shared cache (`hub.history_cache`), but a page in
use stays in memory after the cache has dropped it: the bound of the cache does not bound this. Calls that
bring no messages, such as routing and joining, are not counted: they travel together.
"""


MEMORY_PER_BYTE = 4
"""Bytes of memory for each byte of a message in a reply, about: small messages take 1 KiB each."""


class ReplyPart(Protocol):
    """What one channel has for the reply."""

    @property
    def size(self) -> int:
        """Bytes, about."""

    def shrink(self, room: int) -> None:
        """Keep what *room* bytes can hold."""


class ReplyBudget:
    """The bytes of one reply."""

    __slots__ = ("_channels", "_memory", "_parts", "_read_slots", "_require_open", "_size", "_used")

    def __init__(
        self,
        size: int,
        channels: Iterable[str],
        *,
        require_open: Callable[[], None],
        memory: MemoryBudget,
    ) -> None:
        """Share *size* bytes among *channels*, in this order; the caller must `close` it.

        *require_open* raises if the session that the reply is for has ended: then no further read begins.
        *memory* is what the missed messages of all replies may take; if it is used up, they get fewer, and
        catch-up sends the others.
        """
        self._memory = memory
        self._used = 0
        """Bytes of *memory* that this reply uses."""
        self._size = size
        self._channels = channels
        self._parts: dict[str, ReplyPart] = {}
        self._require_open = require_open
        self._read_slots: asyncio.Semaphore | None = None

    def available_to(self, channel: str) -> int:
        """Return how many bytes the channels before *channel* leave to it, as far as is known."""
        before = takewhile(channel.__ne__, self._channels)
        return self._size - sum(self._parts[name].size for name in before if name in self._parts)

    def reserve(self, channel: str, part: ReplyPart) -> None:
        """Reserve the bytes of *part* for *channel*, and shrink every part to what those before it leave."""
        if not part.size:
            return
        self._parts[channel] = part
        left = self._size
        for name in self._channels:
            if (each := self._parts.get(name)) is not None:
                if each.size > left:
                    each.shrink(left)
                left -= each.size
        self._use_memory(part)

    def release(self, channel: str) -> None:
        """Release what is reserved for *channel*, whose subscription is rejected after all."""
        if self._parts.pop(channel, None) is not None:
            self._count_memory()

    def close(self) -> None:
        """Release everything: the reply is sent, or never will be."""
        self._parts.clear()
        self._count_memory()

    def _use_memory(self, newest: ReplyPart) -> None:
        """Count the memory of all parts, and shrink the *newest* if that is too much."""
        self._count_memory()
        excess = self._memory.used - self._memory.limit
        if excess > 0:
            self._memory.freed += 1
            newest.shrink(max(0, newest.size - excess // MEMORY_PER_BYTE - 1))
            self._count_memory()

    def _count_memory(self) -> None:
        used = MEMORY_PER_BYTE * sum(part.size for part in self._parts.values())
        self._memory.used += used - self._used
        self._used = used

    @asynccontextmanager
    async def read_slot(self) -> AsyncIterator[None]:
        """Wait for one of `CONCURRENT_READS` slots; raise if the session has ended meanwhile."""
        if self._read_slots is None:
            self._read_slots = asyncio.Semaphore(CONCURRENT_READS)
        async with self._read_slots:
            self._require_open()
            yield
