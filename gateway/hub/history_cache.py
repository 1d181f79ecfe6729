"""Parts of histories that were read lately: all who catch up share each read, and each encoding."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.broker.base import Broker, HistorySlice
from gateway.delivery.encoding import EncodedMessage, last_of
from protocol.position import MessageId

if TYPE_CHECKING:
    from gateway.hub.channel import Channel

ENVELOPE = 150
"""Bytes that an encoded message takes beside its data, about."""

SIZE = 4 * 1024 * 1024
"""Bytes of messages, as JSON, that stay here."""

PAGE = 1024
"""Messages of a page: as many as a read asks for, unless they are large."""

READ = 512 * 1024
"""Bytes of messages that a read asks for: about what one reply may hold."""

FEW = 128
"""Messages that are looked back at by all who missed fewer: so all of them ask for the same."""


def reply_size(messages: Iterable[EncodedMessage]) -> int:
    """Return about how many bytes *messages* take in a reply."""
    return sum(len(frames.message.data.json) + ENVELOPE for frames in messages)


@dataclass(frozen=True, slots=True)
class HistoryPart:
    """What directly follows a position; nothing, where that is the newest or `lost` says why not."""

    messages: Sequence[EncodedMessage] = ()
    lost: str = ""
    """`trimmed` where the history no longer reaches back, `reset` where the position is of another one."""


class _Page:
    """Messages that directly follow one another."""

    __slots__ = ("before", "messages", "size")

    def __init__(self, before: MessageId, messages: Sequence[EncodedMessage]) -> None:
        self.before = before
        self.messages = messages
        self.size = reply_size(messages)

    def skip(self, position: MessageId) -> int | None:
        """Return how many of its messages are not after *position*; None where that is not known here."""
        skip = position.offset - self.before.offset
        if not 0 <= skip <= len(self.messages):
            return None
        known = self.before if skip == 0 else self.messages[skip - 1].message.message
        return skip if known == position else None

    def joined(self, other: _Page) -> _Page | None:
        """Return this page with *other* behind it; None where that does not begin here."""
        skip = self.skip(other.before)
        if skip is None:
            return None
        behind = self.messages[skip + len(other.messages) :]
        return _Page(self.before, [*self.messages[:skip], *other.messages, *behind])


_Key = tuple[object, int]
"""The era of a channel, and which of its pages."""


class _Turn:
    """Somebody reads of a page, and others wait."""

    __slots__ = ("oldest", "over")

    def __init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.oldest: MessageId | None = None
        """From which one of those reads that wait."""

    def awaited_by(self, position: MessageId) -> None:
        if self.oldest is None or position.offset < self.oldest.offset:
            self.oldest = position


class HistoryCache:
    """Histories, read in pages that begin and end at the same places for everybody."""

    def __init__(self, broker: Broker, *, size: int = SIZE, page: int = PAGE) -> None:
        """Read *page* messages at a time from *broker*, and keep about *size* bytes of them."""
        self._broker = broker
        self._limit = size
        self._page = page
        self._size = 0
        self._pages: OrderedDict[_Key, _Page] = OrderedDict()
        self._turns: dict[_Key, _Turn] = {}
        self._looking: dict[tuple[object, int], asyncio.Future[None]] = {}
        self._reads = self._hits = 0

    async def after(self, channel: Channel, position: MessageId, most: int | None = None) -> HistoryPart:
        """Return what follows *position* in *channel*: what is at hand of it, at most *most* messages.

        Raises what the broker raises.
        """
        part = await self._after(channel, position)
        return part if most is None or part.lost else HistoryPart(part.messages[:most])

    async def _after(self, channel: Channel, position: MessageId) -> HistoryPart:
        era, top = channel.era, channel.top
        here = self._find(era, position)
        if not here and position.offset and top is not None and 0 < top.offset - position.offset < self._page:
            await self._look_back(channel, top.offset - position.offset)
            here = self._find(era, position)
        if here:
            self._hits += 1
            return HistoryPart(here)
        return await self._read_on(channel, position)

    async def _read_on(self, channel: Channel, position: MessageId) -> HistoryPart:
        """Return what follows *position*, read after whoever reads of the same page by now.

        In turns, and each from the oldest position that waits: so that in a storm of resumes from many
        positions hardly anybody but the first has to ask.
        """
        era, since = channel.era, position
        key = (era, position.offset // self._page)
        while (turn := self._turns.get(key)) is not None:
            turn.awaited_by(position)
            await asyncio.shield(turn.over)
            if here := self._find(era, position):
                self._hits += 1
                return HistoryPart(here)
            since = turn.oldest or position
        part = await self._take_turn(key, channel, since)
        if not (here := self._find(era, position)) and since != position:
            # The other's position may be of no history at all.
            part = await self._take_turn(key, channel, position)
        return HistoryPart(here) if here else part

    async def _take_turn(self, key: _Key, channel: Channel, since: MessageId) -> HistoryPart:
        """Read, keep and return what follows *since*."""
        turn = self._turns[key] = _Turn()
        era, _ = key
        # To where others read on from; at least half a page, so that nobody reads for a message or two.
        limit = self._page - since.offset % self._page
        try:
            limit = limit if limit * 2 > self._page else limit + self._page
            read = await self._read(channel, since=since, limit=limit)
            if not read.recovered:
                return HistoryPart(lost="reset" if read.position.offset <= since.offset else "trimmed")
            messages = [EncodedMessage(message) for message in read.messages]
            self._keep(era, since, messages)
        except Exception as error:
            turn.over.set_exception(error)
            turn.over.exception()  # it may have nobody else to tell
            raise
        finally:
            if self._turns.get(key) is turn:
                del self._turns[key]
            if not turn.over.done():
                turn.over.set_result(None)
        return HistoryPart(messages)

    async def _look_back(self, channel: Channel, missed: int) -> None:
        """Read the newest messages, a few more than the *missed* ones, or a whole page.

        This way of asking names no position, so that a storm of resumes from many asks only once: those who
        come meanwhile wait for the same answer, and look whether it is theirs.
        """
        key = (channel.era, min(self._page, FEW) if missed < FEW else self._page)
        if (asked := self._looking.get(key)) is not None:
            await asyncio.shield(asked)
            return
        asked = self._looking[key] = asyncio.get_running_loop().create_future()
        try:
            era, limit = key
            read = await self._read(channel, limit=limit, reverse=True)
            messages = [EncodedMessage(message) for message in reversed(read.messages)]
            # Across a loss numbers follow one another, and messages do not.
            messages = [each for each in messages if _offset(each) > read.floor]
            if (before := last_of(messages[:1], None)) is not None:
                self._keep(era, before, messages[1:])
        except Exception as error:
            asked.set_exception(error)
            asked.exception()  # it may have nobody else to tell
            raise
        finally:
            del self._looking[key]
            if not asked.done():
                asked.set_result(None)

    async def _read(
        self, channel: Channel, *, since: MessageId | None = None, limit: int, reverse: bool = False
    ) -> HistorySlice:
        self._reads += 1
        return await self._broker.read(channel.name, since=since, limit=limit, size=READ, reverse=reverse)

    def _find(self, era: object, position: MessageId) -> Sequence[EncodedMessage]:
        key = (era, position.offset // self._page)
        page = self._pages.get(key)
        skip = None if page is None else page.skip(position)
        if page is None or skip is None:
            return ()
        self._pages.move_to_end(key)
        return page.messages[skip:]

    def _keep(self, era: object, before: MessageId, messages: Sequence[EncodedMessage]) -> None:
        """Keep *messages*, which directly follow *before*."""
        start = 0
        while start < len(messages):
            block, within = divmod(before.offset, self._page)
            piece = messages[start : start + self._page - within]
            self._put((era, block), _Page(before, piece))
            before = last_of(piece, before) or before
            start += len(piece)
        while self._size > self._limit and len(self._pages) > 1:
            _, old = self._pages.popitem(last=False)
            self._size -= old.size

    def _put(self, key: _Key, page: _Page) -> None:
        old = self._pages.pop(key, None)
        if old is not None:
            self._size -= old.size
            if old.size + page.size <= self._limit:
                page = old.joined(page) or page.joined(old) or page
        self._pages[key] = page
        self._size += page.size

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes."""
        return {"reads": self._reads, "hits": self._hits, "bytes": self._size}

    def __repr__(self) -> str:
        return f"<Pages {len(self._pages)} of {self._size} bytes>"


def _offset(frames: EncodedMessage) -> int:
    identity = frames.message.message
    return 0 if identity is None else identity.offset
