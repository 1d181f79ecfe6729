"""The embedded broker: one node, nothing beside it, nothing that waits."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from hashlib import blake2b
from zlib import crc32

from gateway.broker.base import (
    ChannelRecord,
    Cleared,
    ConnectionRecord,
    Delivery,
    Headcount,
    Instruction,
    Level,
    Node,
    NodeRecord,
    Presence,
    Publication,
    Receipt,
    Retention,
    Slice,
)
from gateway.broker.log import OVERHEAD, Log, cost, new_uid
from gateway.clock import Clock, monotonic, wall
from gateway.errors import BrokerFull, BrokerUnavailable
from gateway.presence.members import Members
from protocol.messages import Join, Leave, Member, Message
from protocol.position import MessageId

KEY_TTL = 300.0
"""Seconds for which an idempotency key is remembered (PROTOCOL section 5)."""

SWEEP_REST = 1.0
"""Seconds between two sweeps for room: a full broker must not look at every channel for every publish."""

GENERATIONS = 4096
"""Groups of channels whose beginnings change together when the log of one of them is forgotten."""


class MemoryBroker:
    """A broker for one node; what it keeps ends with the process.

    Histories and idempotency keys together take at most *memory* bytes. What is too old is dropped for what
    comes; when nothing is, a publish of which something is to be kept fails with `BrokerFull` instead of
    silently shortening somebody's history.
    """

    def __init__(
        self,
        *,
        memory: int = 256 * 1024 * 1024,
        key_ttl: float = KEY_TTL,
        meta_ttl: float = 3600.0,
        clock: Clock = monotonic,
        wall_clock: Clock = wall,
    ) -> None:
        """Keep an idle channel's position for *meta_ttl* seconds after its last message is gone."""
        self._node: Node | None = None
        self._memory = memory
        self._ample = memory - 3 * OVERHEAD
        """Up to here there is room for what a message brings with it: its own overhead, a log and a key."""
        self._key_ttl = key_ttl
        self._meta_ttl = meta_ttl
        self._clock = clock
        self._wall = wall_clock
        self._logs: dict[str, Log] = {}
        self._rosters: dict[str, Members] = {}
        self._receipts: dict[tuple[str, str], Receipt] = {}
        self._keys: deque[tuple[float, tuple[str, str]]] = deque()
        self._secret = os.urandom(16)
        self._generations = [0] * GENERATIONS
        self._swept = clock() - SWEEP_REST
        self._used = 0
        self._published = self._replayed = self._refused = 0

    async def start(self, node: Node) -> None:
        """Begin to serve *node*."""
        self._node = node

    async def close(self) -> None:
        """Stop; nothing is delivered afterwards."""
        self._node = None

    def ready(self) -> bool:
        """Return whether publishes are taken now."""
        return self._node is not None

    # ------------------------------------------------------------ streams

    async def publish(self, publication: Publication) -> Receipt:
        """Store *publication*, deliver it, return its id."""
        node = self._serving()
        now = self._clock()
        key = None if publication.key is None else (publication.channel, publication.key)
        if key is not None and (earlier := self._receipt(key, now)) is not None:
            self._replayed += 1
            return Receipt(earlier.id, replayed=True, level=_reached(publication))
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
            int(self._wall() * 1000),
        )
        if log is not None and retention is not None:
            before = log.size
            log.append(message, retention, now)
            self._used += log.size - before
        receipt = Receipt(message.message, level=_reached(publication))
        if key is not None:
            self._remember(key, receipt, now)
        self._published += 1
        node.deliver(Delivery(message, publication.exclude))
        return receipt

    async def subscribe(self, channel: str, retention: Retention | None) -> MessageId | None:
        """Return the position of *channel*; everything reaches the one node anyway."""
        self._serving()
        return None if retention is None else self._position(channel)

    async def unsubscribe(self, channel: str) -> None:
        """Do nothing: there is one node, and it ignores what nobody follows."""

    async def read(
        self,
        channel: str,
        *,
        since: MessageId | None = None,
        limit: int | None = None,
        size: int | None = None,
        reverse: bool = False,
    ) -> Slice:
        """Return what is kept of *channel*."""
        self._serving()
        log = self._logs.get(channel)
        if log is None:
            position = self._beginning(channel)
            return Slice((), position, recovered=since is None or since == position)
        self._expire(log, self._clock())
        return log.read(since, limit, size, reverse=reverse)

    async def clear(self, channel: str) -> None:
        """Forget the history of *channel*."""
        node = self._serving()
        if (log := self._logs.get(channel)) is not None:
            self._used -= log.size
            log.clear(self._clock())
        node.deliver(Cleared(channel))

    # ------------------------------------------------------------ presence

    async def join(self, channel: str, member: Member) -> None:
        """Add *member* and tell those who follow the channel."""
        node = self._serving()
        if self._rosters.setdefault(channel, Members()).join(member):
            node.deliver(Join(channel, member))

    async def leave(self, channel: str, connection: str) -> None:
        """Remove the member and tell those who follow the channel."""
        roster = self._rosters.get(channel)
        member = None if roster is None else roster.leave(connection)
        if not roster:
            self._rosters.pop(channel, None)
        if member is not None and self._node is not None:
            self._node.deliver(Leave(channel, member))

    async def presence(self, channel: str) -> Presence:
        """Return who is in *channel*."""
        return Presence(tuple(self._rosters.get(channel, ())))

    async def count(self, channel: str) -> Headcount:
        """Return how many are in *channel*."""
        present = await self.presence(channel)
        return Headcount(present.connections, present.users)

    # ------------------------------------------------------------ directory

    async def arrive(self, user: str) -> None:
        """Note nothing: the one node is asked who is there."""

    async def depart(self, user: str) -> None:
        """Note nothing."""

    async def connections(self, user: str) -> Sequence[ConnectionRecord]:
        """Return the connections of *user*."""
        return self._serving().connections(user)

    async def instruct(self, instruction: Instruction) -> None:
        """Hand *instruction* to the node."""
        self._serving().deliver(instruction)

    async def following(self, prefix: str, *, after: str, limit: int) -> Sequence[ChannelRecord]:
        """Return followed channels, by name, behind *after*."""
        followed = self._serving().following(prefix)
        names = sorted(name for name in followed if name > after)[:limit]
        return [ChannelRecord(name, followed[name]) for name in names]

    async def nodes(self) -> Sequence[NodeRecord]:
        """Return the one node."""
        return [self._serving().record()]

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes."""
        return {
            "channels": len(self._logs),
            "bytes": self._used,
            "bytes_limit": self._memory,
            "keys": len(self._receipts),
            "published": self._published,
            "replayed": self._replayed,
            "refused": self._refused,
        }

    def sweep(self) -> None:
        """Drop what is too old: call it every few seconds, the cost is one look at each channel."""
        now = self._swept = self._clock()
        self._forget_keys(now)
        for name, log in list(self._logs.items()):
            self._expire(log, now)
            if not log and log.until + self._meta_ttl <= now:
                self._used -= OVERHEAD
                del self._logs[name]
                # Whoever still holds the old beginning must not be told that nothing came after it.
                self._generations[_group(name)] += 1

    # ------------------------------------------------------------ inside

    def _serving(self) -> Node:
        if self._node is None:
            raise BrokerUnavailable("the broker is not started")
        return self._node

    def _position(self, channel: str) -> MessageId:
        log = self._logs.get(channel)
        return self._beginning(channel) if log is None else log.top

    def _beginning(self, channel: str) -> MessageId:
        """Return the position before the first message of *channel*; derived: asking costs no memory."""
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
            self.sweep()
        log, displaced = self._logs.get(publication.channel), 0
        if log is not None and publication.retention is not None:
            self._expire(log, now)
            displaced = log.displaced(publication.retention)
        needed = self._needed(publication) - displaced
        if needed > 0 and self._used + needed > self._memory:
            self._refused += 1
            raise BrokerFull(f"the embedded broker keeps {self._used} bytes of at most {self._memory}")

    def _log(self, channel: str, now: float) -> Log:
        log = self._logs.get(channel)
        if log is None:
            self._used += OVERHEAD
            log = self._logs[channel] = Log(self._beginning(channel), now)
        return log

    def _expire(self, log: Log, now: float) -> None:
        before = log.size
        log.expire(now)
        self._used += log.size - before

    def _receipt(self, key: tuple[str, str], now: float) -> Receipt | None:
        self._forget_keys(now)
        return self._receipts.get(key)

    def _remember(self, key: tuple[str, str], receipt: Receipt, now: float) -> None:
        self._receipts[key] = receipt
        self._keys.append((now + self._key_ttl, key))
        self._used += OVERHEAD

    def _forget_keys(self, now: float) -> None:
        while self._keys and self._keys[0][0] <= now:
            _, key = self._keys.popleft()
            del self._receipts[key]
            self._used -= OVERHEAD

    def __repr__(self) -> str:
        return f"<MemoryBroker {len(self._logs)} channels {self._used} bytes>"


def _group(channel: str) -> int:
    return crc32(channel.encode()) % GENERATIONS


def _reached(publication: Publication) -> Level | None:
    """Return what to tell who asked for a replica, of which there is none."""
    return Level.STORED if publication.level is Level.REPLICATED else None
