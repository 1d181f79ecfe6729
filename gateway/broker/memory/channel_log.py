"""The history of one channel in memory: numbered, bounded by count and by age."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import islice

from gateway.broker.base import HistorySlice, Publication, Retention
from protocol.messages import Message
from protocol.position import MessageId

ENTRY_OVERHEAD_BYTES = 600
"""Bytes that CPython uses for one stored message beside its payload (measured: 560 to 620)."""


def memory_cost(message: Message | Publication) -> int:
    """Return the bytes of memory that storing *message* costs."""
    size = len(message.data.json) + ENTRY_OVERHEAD_BYTES
    return size if message.tags is None else size + sum(map(len, (*message.tags, *message.tags.values())))


_Entry = tuple[float, MessageId, Message, int]
"""When a message expires, its id, the message itself, and the bytes that it costs."""


class ChannelLog:
    """The stored messages of one channel, oldest first: every message between `base` and `position`."""

    __slots__ = ("_entries", "base", "check_at", "check_second", "last_expiry", "position", "size")

    def __init__(self, initial_position: MessageId, now: float) -> None:
        self._entries: deque[_Entry] = deque()
        self.base = initial_position
        """The id right before the oldest stored message."""
        self.position = initial_position
        """The id of the newest message, stored or expired."""
        self.size = 0
        """Bytes that the stored messages cost."""
        self.last_expiry = now
        """When the newest message expires, or expired."""
        self.check_at = math.inf
        """When a sweep has to look at it: when its oldest message expires, or its position, or earlier."""
        self.check_second = 0
        """`check_at` in the wheel of the store."""

    def append(self, message: Message, retention: Retention, now: float) -> None:
        """Store *message*, and drop the oldest messages beyond `retention.size`.

        Raises:
            ValueError: Its id does not follow `position`.
        """
        message_id = message.message
        if message_id is None or not message_id.follows(self.position):
            raise ValueError(f"{message_id} does not follow {self.position}")
        cost = memory_cost(message)
        self.last_expiry = now + retention.ttl
        self._entries.append((self.last_expiry, message_id, message, cost))
        self.size += cost
        self.position = message_id
        while len(self._entries) > retention.size:
            self._drop_oldest()

    @property
    def first_expiry(self) -> float | None:
        """When the oldest message expires; None if there is none."""
        return self._entries[0][0] if self._entries else None

    def expire(self, now: float, at_most: int | None = None) -> int:
        """Drop the expired messages, up to the first that has not expired: the rest stays consecutive.

        Return how many were dropped, at most *at_most*.
        """
        dropped = 0
        while self._entries and self._entries[0][0] <= now and dropped != at_most:
            self._drop_oldest()
            dropped += 1
        return dropped

    def clear(self, now: float) -> None:
        """Drop every message; the numbering continues."""
        self.last_expiry = min(self.last_expiry, now)
        while self._entries:
            self._drop_oldest()

    def bytes_freed_by_append(self, retention: Retention) -> int:
        """Return the bytes of the messages that the next `append` with *retention* drops."""
        dropped = len(self._entries) + 1 - retention.size
        return sum(cost for _, _, _, cost in islice(self._entries, max(0, dropped)))

    def read(
        self, since: MessageId | None, limit: int | None, size: int | None = None, *, reverse: bool
    ) -> HistorySlice:
        """Return a slice as `MessageBroker.read` specifies it."""
        if since is not None and not self._contains(since):
            return HistorySlice((), self.position, recovered=False)
        first, last = 0, len(self._entries)
        if since is not None and reverse:
            last = max(0, since.offset - self.base.offset - 1)
        elif since is not None:
            first = since.offset - self.base.offset
        if limit is not None and reverse:
            first = max(first, last - limit)
        elif limit is not None:
            last = min(last, first + limit)
        messages = [message for _, _, message, _ in islice(self._entries, first, last)]
        if reverse:
            messages.reverse()
        within = messages if size is None else _within_size(messages, size)
        return HistorySlice(within, self.position, recovered=True)

    def _contains(self, position: MessageId) -> bool:
        if position in (self.base, self.position):
            return True
        index = position.offset - self.base.offset - 1
        return 0 <= index < len(self._entries) and self._entries[index][1] == position

    def _drop_oldest(self) -> None:
        _, self.base, _, cost = self._entries.popleft()
        self.size -= cost

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<ChannelLog {self.base}…{self.position} {len(self)} messages {self.size} bytes>"


def _within_size(messages: Sequence[Message], size: int) -> Sequence[Message]:
    """Return the first of *messages* that have at most *size* bytes together, and at least one message."""
    for count, message in enumerate(messages):
        size -= len(message.data.json)
        if size < 0:
            return messages[: max(1, count)]
    return messages
