"""Pages of histories read lately: clients that catch up at the same time share reads and encodings."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.broker.base import HistorySlice
from gateway.delivery.encoding import EncodedMessage, last_position, memory_cost
from gateway.memory import MemoryBudget
from protocol.codec import CODECS
from protocol.position import MessageId

PAGE_MESSAGES = 1024
"""Messages of a page: as many as a read asks for, unless they are large."""

READ_BYTES = 512 * 1024
"""Bytes of messages that a read asks for: about what one reply may hold."""

SHORT_READ_MESSAGES = 128
"""Messages that a read from the newest one backwards asks for, for all callers that missed fewer messages.

All of them ask for the same messages, and can share the answer.
"""


class HistorySource(Protocol):
    """A broker, as far as histories are read from it."""

    async def read(
        self,
        channel: str,
        *,
        since: MessageId | None = None,
        limit: int | None = None,
        size: int | None = None,
        reverse: bool = False,
    ) -> HistorySlice:
        """Return a slice as `MessageBroker.read` specifies it."""


class CachedChannel(Protocol):
    """A channel, as far as the cache knows it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def history_generation(self) -> object:
        """Identifies its history: pages of an earlier generation are never served."""

    @property
    def position(self) -> MessageId | None:
        """The newest message delivered on this node."""


@dataclass(frozen=True, slots=True)
class HistoryPart:
    """The messages that directly follow a position; none if it is the newest, or if `gap_reason` is set."""

    messages: Sequence[EncodedMessage] = ()
    gap_reason: str = ""
    """`trimmed`: the history no longer reaches back; `reset`: the position is of another history."""


class _Page:
    """Messages that directly follow one another."""

    __slots__ = ("before", "messages", "size")

    def __init__(self, before: MessageId, messages: Sequence[EncodedMessage]) -> None:
        self.before = before
        """The position that the first message follows."""
        self.messages = messages
        self.size = sum(memory_cost(encoded.message, len(CODECS)) for encoded in messages)
        """Bytes of memory that the messages take, with their frames."""

    def index_after(self, position: MessageId) -> int | None:
        """Return the index of the first message after *position*; None if *position* is not in the page."""
        index = position.offset - self.before.offset
        if not 0 <= index <= len(self.messages):
            return None
        known = self.before if index == 0 else self.messages[index - 1].id
        return index if known == position else None

    def merged(self, other: _Page) -> _Page | None:
        """Return this page with the messages of *other*; None if *other* does not begin inside it."""
        index = self.index_after(other.before)
        if index is None:
            return None
        rest = self.messages[index + len(other.messages) :]
        return _Page(self.before, [*self.messages[:index], *other.messages, *rest])


_Key = tuple[object, int]
"""The history generation of a channel, and the number of one of its pages."""


class _RunningRead:
    """A read of one page that is under way, for which others wait."""

    __slots__ = ("done", "oldest_waiting")

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.oldest_waiting: MessageId | None = None
        """The oldest position from which a waiting caller wants to read; None while none waits."""

    def add_waiting(self, position: MessageId) -> None:
        if self.oldest_waiting is None or position.offset < self.oldest_waiting.offset:
            self.oldest_waiting = position


class HistoryCache:
    """Histories, read in pages that begin and end at the same offsets for every caller."""

    def __init__(self, broker: HistorySource, budget: MemoryBudget, *, page: int = PAGE_MESSAGES) -> None:
        """Read *page* messages at a time from *broker*, and keep as many pages as are in *budget*."""
        self._broker = broker
        self._budget = budget
        self._page = page
        self._pages: OrderedDict[_Key, _Page] = OrderedDict()
        self._page_reads: dict[_Key, _RunningRead] = {}
        self._newest_reads: dict[tuple[object, int], asyncio.Future[None]] = {}
        """Reads of the newest messages that are under way, by history generation and number of messages."""
        self._reads = self._hits = 0

    async def messages_after(
        self, channel: CachedChannel, position: MessageId, limit: int | None = None
    ) -> HistoryPart:
        """Return messages of *channel* that directly follow *position*, at most *limit*; perhaps not all.

        Raises:
            GatewayError: The broker does not answer.
        """
        part = await self._messages_after(channel, position)
        return part if limit is None or part.gap_reason else HistoryPart(part.messages[:limit])

    async def _messages_after(self, channel: CachedChannel, position: MessageId) -> HistoryPart:
        generation, newest = channel.history_generation, channel.position
        cached = self._find(generation, position)
        if (
            not cached
            and position.offset
            and newest is not None
            and 0 < newest.offset - position.offset < self._page
        ):
            await self._read_newest(channel, newest.offset - position.offset)
            cached = self._find(generation, position)
        if cached:
            self._hits += 1
            return HistoryPart(cached)
        return await self._read_after(channel, position)

    async def _read_after(self, channel: CachedChannel, position: MessageId) -> HistoryPart:
        """Return what follows *position*; waits for a read of the same page that is under way.

        One read at a time for each page, and each from the oldest position that a caller waits for: so in a
        storm of resumes from many positions few callers but the first have to ask the broker.
        """
        generation, since = channel.history_generation, position
        key = (generation, position.offset // self._page)
        while (running := self._page_reads.get(key)) is not None:
            running.add_waiting(position)
            await asyncio.shield(running.done)
            if cached := self._find(generation, position):
                self._hits += 1
                return HistoryPart(cached)
            since = running.oldest_waiting or position
        part = await self._read_page(key, channel, since)
        if not (cached := self._find(generation, position)) and since != position:
            # The position of the other caller may be of another history.
            part = await self._read_page(key, channel, position)
        return HistoryPart(cached) if cached else part

    async def _read_page(self, key: _Key, channel: CachedChannel, since: MessageId) -> HistoryPart:
        """Read, cache and return what follows *since*."""
        running = self._page_reads[key] = _RunningRead()
        generation, _ = key
        # Read up to the next page boundary, so that all callers use the same pages; if that is at most half
        # a page, up to the boundary after it, so that no read is for only a few messages.
        limit = self._page - since.offset % self._page
        try:
            limit = limit if limit * 2 > self._page else limit + self._page
            read = await self._read(channel, since=since, limit=limit)
            if not read.recovered:
                return HistoryPart(gap_reason="reset" if read.position.offset <= since.offset else "trimmed")
            messages = [EncodedMessage(message) for message in read.messages]
            self._add(generation, since, messages)
        except Exception as error:
            running.done.set_exception(error)
            running.done.exception()  # marks it as retrieved: perhaps no other caller waits for it
            raise
        finally:
            if self._page_reads.get(key) is running:
                del self._page_reads[key]
            if not running.done.done():
                running.done.set_result(None)
        return HistoryPart(messages)

    async def _read_newest(self, channel: CachedChannel, missed: int) -> None:
        """Read and cache the newest messages: a few more than the *missed* ones, or a whole page.

        Such a read names no position, so that a storm of resumes from many positions asks the broker only
        once: callers that come meanwhile wait for the same answer, and check whether it holds their messages.
        """
        limit = min(self._page, SHORT_READ_MESSAGES) if missed < SHORT_READ_MESSAGES else self._page
        key = (channel.history_generation, limit)
        if (running := self._newest_reads.get(key)) is not None:
            await asyncio.shield(running)
            return
        running = self._newest_reads[key] = asyncio.get_running_loop().create_future()
        try:
            generation, limit = key
            read = await self._read(channel, limit=limit, reverse=True)
            messages = [EncodedMessage(message) for message in reversed(read.messages)]
            # `floor`: the store lost writes up to this offset, so up to there messages may be missing
            # although their offsets follow one another.
            messages = [each for each in messages if _offset(each) > read.floor]
            if (before := last_position(messages[:1], None)) is not None:
                self._add(generation, before, messages[1:])
        except Exception as error:
            running.set_exception(error)
            running.exception()  # marks it as retrieved: perhaps no other caller waits for it
            raise
        finally:
            del self._newest_reads[key]
            if not running.done():
                running.set_result(None)

    async def _read(
        self, channel: CachedChannel, *, since: MessageId | None = None, limit: int, reverse: bool = False
    ) -> HistorySlice:
        self._reads += 1
        return await self._broker.read(
            channel.name, since=since, limit=limit, size=READ_BYTES, reverse=reverse
        )

    def _find(self, generation: object, position: MessageId) -> Sequence[EncodedMessage]:
        """Return the cached messages that follow *position*, as far as they are in one page."""
        key = (generation, position.offset // self._page)
        page = self._pages.get(key)
        index = None if page is None else page.index_after(position)
        if page is None or index is None:
            return ()
        self._pages.move_to_end(key)
        return page.messages[index:]

    def _add(self, generation: object, before: MessageId, messages: Sequence[EncodedMessage]) -> None:
        """Cache *messages*, which directly follow *before*; drop the pages that were not used for longest."""
        start = 0
        while start < len(messages):
            number, within = divmod(before.offset, self._page)
            piece = messages[start : start + self._page - within]
            self._put((generation, number), _Page(before, piece))
            before = last_position(piece, before) or before
            start += len(piece)
        while self._budget.used > self._budget.limit and len(self._pages) > 1:
            _, dropped = self._pages.popitem(last=False)
            self._budget.give_back(dropped.size)
            self._budget.freed += 1

    def _put(self, key: _Key, page: _Page) -> None:
        cached = self._pages.pop(key, None)
        if cached is not None:
            self._budget.give_back(cached.size)
            if cached.size + page.size <= self._budget.limit:
                page = cached.merged(page) or page.merged(cached) or page
        self._pages[key] = page
        self._budget.used += page.size

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes."""
        return {"reads": self._reads, "hits": self._hits, "bytes": self._budget.used}

    def __repr__(self) -> str:
        return f"<HistoryCache {len(self._pages)} pages of {self._budget.used} bytes>"


def _offset(encoded: EncodedMessage) -> int:
    message_id = encoded.id
    return 0 if message_id is None else message_id.offset
