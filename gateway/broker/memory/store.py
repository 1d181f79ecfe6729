"""The data of the embedded broker, in bounded memory: histories, and receipts by idempotency key."""

from __future__ import annotations

import math
import os
from collections import deque
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

from gateway.broker.base import HistorySlice, Publication, Receipt
from gateway.broker.memory.channel_log import ENTRY_OVERHEAD_BYTES, ChannelLog, memory_cost
from gateway.broker.memory.expiry_wheel import ExpiryWheel
from gateway.broker.uid import new_uid
from gateway.errors import BrokerFull
from protocol.messages import Message
from protocol.position import MessageId

ROOM_STEPS = 200
"""Expired messages, receipts and channels that one publish drops at most in order to make room."""

RECEIPTS_PER_LOOKUP = 16
"""Expired receipts that are dropped when one is looked up, so that fewer expire than are dropped."""

GENERATION_GROUPS = 4096
"""Groups of channels whose initial positions change together when the log of one of them is removed."""


class _StoredReceipt(NamedTuple):
    receipt: Receipt
    digest: str
    """Of what was published."""
    expiry: float


class Store:
    """Histories and receipts that use at most *memory* bytes together.

    Expired messages and receipts are removed to make room. If that is not enough, a publish that would have
    to be stored is rejected: no message or receipt is dropped before it has expired. Receipts use half of the
    memory at most.
    """

    def __init__(self, memory: int, *, key_ttl: float, meta_ttl: float) -> None:
        """Keep a receipt for *key_ttl* seconds, a log for *meta_ttl* after its last message expired."""
        self._memory = memory
        self._ample_memory = memory - 3 * ENTRY_OVERHEAD_BYTES
        """If no more is used, payload included, there is room for the entry, log and receipt of a publish."""
        self._max_receipts = memory // 2 // ENTRY_OVERHEAD_BYTES
        """Receipts may use half of the memory: the other half is for histories, whatever keys are sent."""
        self._key_ttl = key_ttl
        self._meta_ttl = meta_ttl
        self._logs: dict[str, ChannelLog] = {}
        self._wheel = ExpiryWheel()
        """The channels of `_logs`, each at its `check_at`."""
        self._receipts: dict[tuple[str, str], _StoredReceipt] = {}
        """By channel and idempotency key."""
        self._receipt_expiries: deque[tuple[float, tuple[str, str]]] = deque()
        self._secret = os.urandom(16)
        self._generations = [0] * GENERATION_GROUPS
        self._used = self.rejected = 0
        """Bytes in use; publishes that were rejected."""

    # ------------------------------------------------------------ publishes

    def append(self, publication: Publication, now: float, time: int) -> Message:
        """Return the message of *publication*, stored if it has a retention; *time* in Unix milliseconds.

        Raises:
            BrokerFull: There is no room for the message and, if it has an idempotency key, its receipt; or
                there are too many keys.
        """
        if publication.key is not None and len(self._receipts) >= self._max_receipts:
            self.rejected += 1
            raise BrokerFull(f"the embedded broker keeps {len(self._receipts)} idempotency keys, and no more")
        if self._used + len(publication.data.json) > self._ample_memory or publication.tags is not None:
            self._make_room(publication, now)
        retention = publication.retention
        log = None if retention is None else self._log(publication.channel, now)
        message = Message(
            publication.channel,
            publication.data,
            None if log is None else MessageId(log.position.offset + 1, new_uid()),
            publication.sender,
            publication.tags,
            time,
        )
        if log is not None and retention is not None:
            size_before = log.size
            log.append(message, retention, now)
            self._used += log.size - size_before
            if log.last_expiry < log.check_at:
                self._check_at(publication.channel, log, log.last_expiry)
        return message

    def add_receipt(self, channel: str, key: str, receipt: Receipt, digest: str, now: float) -> None:
        """Store *receipt* for the publish to *channel* with *key*; *digest* is that of its content."""
        expiry = now + self._key_ttl
        self._receipts[channel, key] = _StoredReceipt(receipt, digest, expiry)
        self._receipt_expiries.append((expiry, (channel, key)))
        self._used += ENTRY_OVERHEAD_BYTES

    def find_receipt(self, channel: str, key: str, now: float) -> tuple[Receipt, str] | None:
        """Return receipt and digest of an earlier publish to *channel* with *key*; None if there is none."""
        self._expire_receipts(now, RECEIPTS_PER_LOOKUP)
        stored = self._receipts.get((channel, key))
        if stored is None:
            return None
        if stored.expiry <= now:
            # Forgotten here, so that the next receipt for the key is counted, and expires, on its own.
            self._forget_receipt((channel, key))
            return None
        return stored.receipt, stored.digest

    # ------------------------------------------------------------ histories

    def position(self, channel: str) -> MessageId:
        """Return the position of *channel*; without a log the position is computed, and costs no memory."""
        log = self._logs.get(channel)
        return self._initial_position(channel) if log is None else log.position

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
        """Return a slice as `MessageBroker.read` specifies it."""
        log = self._logs.get(channel)
        if log is None:
            position = self._initial_position(channel)
            return HistorySlice((), position, recovered=since is None or since == position)
        self._expire(log, now)
        return log.read(since, limit, size, reverse=reverse)

    def clear(self, channel: str, now: float) -> None:
        """Delete the stored messages of *channel*; the numbering continues."""
        if (log := self._logs.get(channel)) is not None:
            self._used -= log.size
            log.clear(now)
            if (end := log.last_expiry + self._meta_ttl) < log.check_at:
                self._check_at(channel, log, end)

    def sweep(self, now: float, *, at_most: int) -> bool:
        """Drop expired messages, receipts and positions, in *at_most* steps; return whether there are more.

        Only channels with something to drop are looked at, in the order of their expiry, which is rounded up
        to a second.
        """
        steps = at_most - self._expire_receipts(now, at_most)
        while steps > 0 and (name := self._wheel.pop_due(now)) is not None:
            steps -= 1 + self._check(name, self._logs[name], now, steps)
        return steps <= 0

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes."""
        return {
            "channels": len(self._logs),
            "bytes": self._used,
            "bytes_limit": self._memory,
            "keys": len(self._receipts),
            "keys_limit": self._max_receipts,
        }

    # ------------------------------------------------------------ inside

    def _initial_position(self, channel: str) -> MessageId:
        """Return the position before the first message of *channel*."""
        name = f"{self._generations[_group(channel)]} {channel}"
        return MessageId(0, blake2b(name.encode(), key=self._secret, digest_size=6).hexdigest())

    def _bytes_needed(self, publication: Publication) -> int:
        """Return the bytes that storing *publication* and its receipt costs."""
        needed = 0 if publication.key is None else ENTRY_OVERHEAD_BYTES
        if publication.retention is not None:
            needed += memory_cost(publication)
            if publication.channel not in self._logs:
                needed += ENTRY_OVERHEAD_BYTES
        return needed

    def _make_room(self, publication: Publication, now: float) -> None:
        """Drop what has expired until *publication* has room.

        Raises:
            BrokerFull: Expired messages, and those that its own channel drops for it, do not free enough.
        """
        if self._used + self._bytes_needed(publication) <= self._memory:
            return
        self.sweep(now, at_most=ROOM_STEPS)
        log, freed = self._logs.get(publication.channel), 0
        if log is not None and publication.retention is not None:
            self._expire(log, now)
            freed = log.bytes_freed_by_append(publication.retention)
        needed = self._bytes_needed(publication) - freed
        if needed > 0 and self._used + needed > self._memory:
            self.rejected += 1
            raise BrokerFull(f"the embedded broker keeps {self._used} bytes of at most {self._memory}")

    def _log(self, channel: str, now: float) -> ChannelLog:
        log = self._logs.get(channel)
        if log is None:
            self._used += ENTRY_OVERHEAD_BYTES
            log = self._logs[channel] = ChannelLog(self._initial_position(channel), now)
        return log

    def _expire(self, log: ChannelLog, now: float) -> None:
        size_before = log.size
        log.expire(now)
        self._used += log.size - size_before

    def _check(self, name: str, log: ChannelLog, now: float, at_most: int) -> int:
        """Drop at most *at_most* expired messages of *log*, or *log* itself; return how many messages."""
        log.check_at = math.inf
        size_before = log.size
        dropped = log.expire(now, at_most)
        self._used += log.size - size_before
        first_expiry = log.first_expiry
        due = log.last_expiry + self._meta_ttl if first_expiry is None else first_expiry
        if first_expiry is None and due <= now:
            self._used -= ENTRY_OVERHEAD_BYTES
            del self._logs[name]
            # The old initial position must not be recovered: the messages after it are gone.
            self._generations[_group(name)] += 1
        else:
            self._check_at(name, log, due)
        return dropped

    def _check_at(self, name: str, log: ChannelLog, due: float) -> None:
        """Let a sweep look at *log* at *due*, instead of later."""
        if log.check_at < math.inf:
            self._wheel.discard(name, log.check_second)
        log.check_at = due
        log.check_second = self._wheel.add(name, due)

    def _expire_receipts(self, now: float, at_most: int) -> int:
        """Drop at most *at_most* expired receipts; return how many."""
        dropped, expiries = 0, self._receipt_expiries
        while expiries and expiries[0][0] <= now and dropped < at_most:
            expiry, key = expiries.popleft()
            dropped += 1
            stored = self._receipts.get(key)
            if stored is not None and stored.expiry == expiry:
                self._forget_receipt(key)
        return dropped

    def _forget_receipt(self, key: tuple[str, str]) -> None:
        del self._receipts[key]
        self._used -= ENTRY_OVERHEAD_BYTES

    def __repr__(self) -> str:
        return f"<Store {len(self._logs)} channels {self._used} bytes>"


def _group(channel: str) -> int:
    return crc32(channel.encode()) % GENERATION_GROUPS
