"""What the embedded broker keeps, in bounded memory: histories, and what was published under a key."""

from __future__ import annotations

import os
from collections import deque
from hashlib import blake2b
from zlib import crc32

from gateway.broker.base import HistorySlice, Publication, Receipt
from gateway.broker.memory.channel_log import OVERHEAD, ChannelLog, cost
from gateway.broker.uid import new_uid
from gateway.errors import BrokerFull
from protocol.messages import Message
from protocol.position import MessageId

SWEEP_REST = 1.0
"""Seconds between two sweeps for room: a full store must not look at every channel for every publish."""

GENERATIONS = 4096
"""Groups of channels whose beginnings change together when the log of one of them is forgotten."""


class Store:
    """Histories and idempotency keys that take at most *memory* bytes together.

    What is too old is dropped for what comes; when nothing is, what would displace what is not is refused.
    """

    def __init__(self, memory: int, *, key_ttl: float, meta_ttl: float, now: float) -> None:
        """Keep a key for *key_ttl* seconds, a log for *meta_ttl* after its last message is gone."""
        self._memory = memory
        self._ample = memory - 3 * OVERHEAD
        """Up to here there is room for what a message brings with it: its own overhead, a log and a key."""
        self._key_ttl = key_ttl
        self._meta_ttl = meta_ttl
        self._logs: dict[str, ChannelLog] = {}
        self._receipts: dict[tuple[str, str], Receipt] = {}
        self._keys: deque[tuple[float, tuple[str, str]]] = deque()
        self._secret = os.urandom(16)
        self._generations = [0] * GENERATIONS
        self._swept = now - SWEEP_REST
        self._used = self.refused = 0

    # ------------------------------------------------------------ publishes

    def keep(self, publication: Publication, now: float, at: int) -> Message:
        """Return the message, of *at* in Unix ms, that is kept if it is to be; `BrokerFull` without room.

        There is room also for its key, to be remembered next.
        """
        if self._used + len(publication.data.json) > self._ample or publication.tags is not None:
            self._make_room(publication, now)
        retention = publication.retention
        log = None if retention is None else self._log(publication.channel, now)
        message = Message(
            publication.channel,
            publication.data,
            None if log is None else MessageId(log.top.offset + 1, new_uid()),
            publication.sender,
            publication.tags,
            at,
        )
        if log is not None and retention is not None:
            before = log.size
            log.append(message, retention, now)
            self._used += log.size - before
        return message

    def remember(self, channel: str, key: str, receipt: Receipt, now: float) -> None:
        """Keep *receipt* as that of the publish to *channel* under *key*."""
        place = (channel, key)
        self._receipts[place] = receipt
        self._keys.append((now + self._key_ttl, place))
        self._used += OVERHEAD

    def receipt(self, channel: str, key: str, now: float) -> Receipt | None:
        """Return what is remembered of an earlier publish to *channel* under *key*."""
        self._forget_keys(now)
        return self._receipts.get((channel, key))

    # ------------------------------------------------------------ histories

    def position(self, channel: str) -> MessageId:
        """Return the position of *channel*; of one without a log it is derived: asking costs no memory."""
        log = self._logs.get(channel)
        return self._beginning(channel) if log is None else log.top

    def read(
        self,
        channel: str,
        since: MessageId | None,
        limit: int | None,
        size: int | None,
        *,
        reverse: bool,
        now: float,
    ) -> HistorySlice:
        """Return a slice as `broker.base.Streams.read` promises it."""
        log = self._logs.get(channel)
        if log is None:
            position = self._beginning(channel)
            return HistorySlice((), position, recovered=since is None or since == position)
        self._expire(log, now)
        return log.read(since, limit, size, reverse=reverse)

    def clear(self, channel: str, now: float) -> None:
        """Forget the history of *channel*; its numbering goes on."""
        if (log := self._logs.get(channel)) is not None:
            self._used -= log.size
            log.clear(now)

    def sweep(self, now: float) -> None:
        """Drop what is too old; the cost is one look at each channel."""
        self._swept = now
        self._forget_keys(now)
        for name, log in list(self._logs.items()):
            self._expire(log, now)
            if not log and log.until + self._meta_ttl <= now:
                self._used -= OVERHEAD
                del self._logs[name]
                # Whoever still holds the old beginning must not be told that nothing came after it.
                self._generations[_group(name)] += 1

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes."""
        return {
            "channels": len(self._logs),
            "bytes": self._used,
            "bytes_limit": self._memory,
            "keys": len(self._receipts),
        }

    # ------------------------------------------------------------ inside

    def _beginning(self, channel: str) -> MessageId:
        """Return the position before the first message of *channel*."""
        name = f"{self._generations[_group(channel)]} {channel}"
        return MessageId(0, blake2b(name.encode(), key=self._secret, digest_size=6).hexdigest())

    def _needed(self, publication: Publication) -> int:
        """Return the bytes that keeping *publication* and its key takes."""
        needed = 0 if publication.key is None else OVERHEAD
        if publication.retention is not None:
            needed += cost(publication)
            if publication.channel not in self._logs:
                needed += OVERHEAD
        return needed

    def _make_room(self, publication: Publication, now: float) -> None:
        """Drop what is too old; `BrokerFull` where that and what *publication* displaces is not enough."""
        if self._used + self._needed(publication) <= self._memory:
            return
        if now - self._swept >= SWEEP_REST:
            self.sweep(now)
        log, displaced = self._logs.get(publication.channel), 0
        if log is not None and publication.retention is not None:
            self._expire(log, now)
            displaced = log.displaced(publication.retention)
        needed = self._needed(publication) - displaced
        if needed > 0 and self._used + needed > self._memory:
            self.refused += 1
            raise BrokerFull(f"the embedded broker keeps {self._used} bytes of at most {self._memory}")

    def _log(self, channel: str, now: float) -> ChannelLog:
        log = self._logs.get(channel)
        if log is None:
            self._used += OVERHEAD
            log = self._logs[channel] = ChannelLog(self._beginning(channel), now)
        return log

    def _expire(self, log: ChannelLog, now: float) -> None:
        before = log.size
        log.expire(now)
        self._used += log.size - before

    def _forget_keys(self, now: float) -> None:
        while self._keys and self._keys[0][0] <= now:
            _, place = self._keys.popleft()
            del self._receipts[place]
            self._used -= OVERHEAD

    def __repr__(self) -> str:
        return f"<Store {len(self._logs)} channels {self._used} bytes>"


def _group(channel: str) -> int:
    return crc32(channel.encode()) % GENERATIONS
