"""The history of one channel in memory: numbered, bounded by count and by age."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from gateway.broker.base import HistorySlice, Publication, Retention
from protocol.messages import Message
from protocol.position import MessageId

OVERHEAD = 600
"""Bytes that CPython takes for one kept message beside its payload (measured: 560 to 620)."""


def cost(message: Message | Publication) -> int:
    """Return the bytes that keeping *message* takes."""
    size = len(message.data.json) + OVERHEAD
    return size if message.tags is None else size + sum(map(len, (*message.tags, *message.tags.values())))


class ChannelLog:
    """Messages of one channel, oldest first; everything between `base` and `top` is there."""

    __slots__ = ("_kept", "base", "size", "top", "until")

    def __init__(self, beginning: MessageId, now: float) -> None:
        self._kept: deque[tuple[float, MessageId, Message, int]] = deque()
        self.base = self.top = beginning
        """The id right before the oldest message kept, and that of the newest."""
        self.size = 0
        """Bytes taken."""
        self.until = now
        """When the newest message is gone."""

    def append(self, message: Message, retention: Retention, now: float) -> None:
        """Keep *message*, whose id must follow `top`; drop what *retention* no longer covers."""
        identity = message.message
        if identity is None or not identity.follows(self.top):
            raise ValueError(f"{identity} does not follow {self.top}")
        size = cost(message)
        self.until = now + retention.ttl
        self._kept.append((self.until, identity, message, size))
        self.size += size
        self.top = identity
        while len(self._kept) > retention.size:
            self._drop()

    def expire(self, now: float) -> None:
        """Drop every message whose time is over."""
        while self._kept and self._kept[0][0] <= now:
            self._drop()

    def clear(self, now: float) -> None:
        """Drop every message; the numbering goes on."""
        self.until = min(self.until, now)
        while self._kept:
            self._drop()

    def displaced(self, retention: Retention) -> int:
        """Return the bytes that the next `append` frees."""
        over = len(self._kept) + 1 - retention.size
        return sum(size for _, _, _, size in islice(self._kept, max(0, over)))

    def read(
        self, since: MessageId | None, limit: int | None, size: int | None = None, *, reverse: bool
    ) -> HistorySlice:
        """Return a slice as `broker.base.Streams.read` promises it."""
        if since is not None and not self._knows(since):
            return HistorySlice((), self.top, recovered=False)
        first, last = 0, len(self._kept)
        if since is not None and reverse:
            last = max(0, since.offset - self.base.offset - 1)
        elif since is not None:
            first = since.offset - self.base.offset
        if limit is not None and reverse:
            first = max(first, last - limit)
        elif limit is not None:
            last = min(last, first + limit)
        messages = [message for _, _, message, _ in islice(self._kept, first, last)]
        if reverse:
            messages.reverse()
        return HistorySlice(messages if size is None else _of(size, messages), self.top, recovered=True)

    def _knows(self, position: MessageId) -> bool:
        if position in (self.base, self.top):
            return True
        index = position.offset - self.base.offset - 1
        return 0 <= index < len(self._kept) and self._kept[index][1] == position

    def _drop(self) -> None:
        _, self.base, _, size = self._kept.popleft()
        self.size -= size

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"<Log {self.base}…{self.top} {len(self)} messages {self.size} bytes>"


def _of(size: int, messages: Sequence[Message]) -> Sequence[Message]:
    """Return as many of *messages* as have *size* bytes together; the first in any case."""
    for count, message in enumerate(messages):
        size -= len(message.data.json)
        if size < 0:
            return messages[: max(1, count)]
    return messages
