"""The embedded broker, for one node: all data is in the memory of the process, and no method waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from gateway import defaults
from gateway.broker.base import (
    AckLevel,
    ChannelRecord,
    ConnectionRecord,
    Delivery,
    HistoryCleared,
    HistorySlice,
    LocalNode,
    LookupResult,
    NodeRecord,
    Presence,
    PresenceCount,
    Publication,
    Receipt,
    Retention,
    UserCommand,
)
from gateway.broker.content_digest import content_digest
from gateway.broker.memory.store import Store
from gateway.clock import Clock, elapsed, wall
from gateway.errors import BrokerUnavailable, KeyReused
from gateway.presence.grace_timer import GraceTimer
from gateway.presence.members import Absence, Members
from gateway.tasks import Slicer, Tasks, call_exception_handler
from protocol.messages import Join, Leave, Member
from protocol.position import MessageId

FLUSH_DELAY = 0.001
"""Seconds, see `Broker.flush_delay`: publishes are answered at once, so a short delay merges writes."""

SWEEP_SECONDS = 1.0
"""The interval between two sweeps of expired messages, keys and positions."""

SWEEP_STEPS, STEP_MICROSECONDS = 200, 5
"""What a sweep does before other callbacks of the event loop may run, and how long a step takes."""


class MemoryBroker:
    """A broker for one node; all stored data ends with the process.

    Histories and idempotency keys together use at most *memory* bytes. Expired messages and keys are removed
    to make room. If that is not enough, a publish that would have to be stored fails with `BrokerFull`: a
    history is never shortened silently.
    """

    flush_delay = FLUSH_DELAY

    def __init__(
        self,
        *,
        memory: int = defaults.MEMORY_BYTES,
        key_ttl: float = defaults.IDEMPOTENCY_TTL_SECONDS,
        meta_ttl: float = defaults.POSITION_TTL_SECONDS,
        sweep_interval: float = SWEEP_SECONDS,
        slicer: Slicer | None = None,
        on_error: Callable[[BaseException], None] | None = None,
        clock: Clock = elapsed,
        wall_clock: Clock = wall,
    ) -> None:
        """Prepare a broker that serves nobody before `start`.

        Args:
            memory: Bytes that histories and idempotency keys may use together.
            key_ttl: Seconds for which an idempotency key is remembered.
            meta_ttl: Seconds for which a channel's position outlives its last message.
            sweep_interval: Seconds between two sweeps; 0: no periodic sweep, the caller calls `sweep`.
            slicer: Shared by all long work of the node; by default one of this broker alone.
            on_error: Gets the exceptions of sweeps; by default the event loop's exception handler.
            clock: Seconds, never stepped; those while the machine is suspended count.
            wall_clock: Unix seconds.
        """
        self._node: LocalNode | None = None
        self._store = Store(memory, key_ttl=key_ttl, meta_ttl=meta_ttl)
        self._clock = clock
        self._wall = wall_clock
        self._sweep_interval = sweep_interval
        self._slicer = slicer or Slicer()
        self._tasks = Tasks(
            on_error or partial(call_exception_handler, "a task of the embedded broker failed")
        )
        self._members: dict[str, Members] = {}
        self._graces: GraceTimer[tuple[str, Absence]] = GraceTimer(self._on_graces_ended)
        self._published = self._replayed = self._keys_reused = self._graces_refused = 0

    async def start(self, node: LocalNode) -> None:
        """Begin to serve *node*, and to sweep until `close`."""
        self._node = node
        if self._sweep_interval:
            self._tasks.spawn(self._sweep_periodically())

    async def close(self) -> None:
        """Stop; no envelope is delivered afterwards."""
        self._node = None
        self._graces.cancel()
        await self._tasks.close()

    def ready(self) -> bool:
        """Return whether publishes are accepted now: between `start` and `close`."""
        return self._node is not None

    # ------------------------------------------------------------ messages

    async def publish(self, publication: Publication) -> Receipt:
        """Store *publication*, deliver it, and return the receipt."""
        node = self._serving()
        now, channel, key = self._clock(), publication.channel, publication.key
        level = _acknowledged_level(publication)
        digest = "" if key is None else content_digest(publication)
        if key is not None and (earlier := self._store.find_receipt(channel, key, now)) is not None:
            receipt, earlier_digest = earlier
            if digest != earlier_digest:
                self._keys_reused += 1
                raise KeyReused(key)
            self._replayed += 1
            return Receipt(receipt.id, replayed=True, level=level)
        message = self._store.append(publication, now, int(self._wall() * 1000))
        receipt = Receipt(message.message, level=level)
        if key is not None:
            self._store.add_receipt(channel, key, receipt, digest, now)
        self._published += 1
        node.deliver(Delivery(message, publication.exclude))
        return receipt

    async def subscribe(self, channel: str, retention: Retention | None) -> MessageId | None:
        """Return the position of *channel*; every message reaches the one node anyway."""
        self._serving()
        return None if retention is None else self._store.position(channel)

    async def unsubscribe(self, channel: str) -> None:
        """Do nothing: the one node ignores messages of channels without subscribers."""

    async def read(
        self,
        channel: str,
        *,
        since: MessageId | None = None,
        limit: int | None = None,
        size: int | None = None,
        reverse: bool = False,
    ) -> HistorySlice:
        """Return stored messages of *channel*."""
        self._serving()
        return self._store.read(channel, since, limit, size, reverse=reverse, now=self._clock())

    async def clear(self, channel: str) -> None:
        """Delete the stored messages of *channel*."""
        node = self._serving()
        self._store.clear(channel, self._clock())
        node.deliver(HistoryCleared(channel))

    # ------------------------------------------------------------ presence

    async def join(self, channel: str, member: Member) -> Member:
        """Add *member*, deliver a `Join` if it is new, and return it as it is listed."""
        node = self._serving()
        listed, new = self._members.setdefault(channel, Members()).join(member)
        if new:
            node.deliver(Join(channel, listed))
        return listed

    async def leave(self, channel: str, connection: str, *, grace: float = 0.0) -> None:
        """Remove the member, now or when its *grace* ends, and deliver a `Leave` if it was present."""
        members = self._members.get(channel)
        if members is None:
            return
        if grace and (absence := members.start_absence(connection)) is not None:
            if self._graces.start((channel, absence), grace):
                return
            self._graces_refused += 1
        self._remove_member(channel, connection)

    async def presence(self, channel: str) -> Presence:
        """Return the members of *channel*, in the order of their joins."""
        return Presence(tuple(self._members.get(channel, ())))

    async def count(self, channel: str) -> PresenceCount:
        """Return the number of members of *channel*."""
        present = await self.presence(channel)
        return PresenceCount(present.connections, present.users)

    # ------------------------------------------------------------ directory

    async def user_connected(self, user: str) -> None:
        """Do nothing: `connections` asks the one node."""

    async def user_disconnected(self, user: str) -> None:
        """Do nothing."""

    async def connections(self, user: str) -> LookupResult[ConnectionRecord]:
        """Return the connections of *user*."""
        return LookupResult(self._serving().connections(user))

    async def send_user_command(self, command: UserCommand) -> None:
        """Deliver *command* to the one node."""
        self._serving().deliver(command)

    async def subscribed_channels(
        self, prefix: str, *, after: str, limit: int
    ) -> LookupResult[ChannelRecord]:
        """Return channels with subscribers, sorted by name, whose names come after *after*."""
        found = self._serving().subscribed_channels(prefix, after=after, limit=limit)
        return LookupResult([ChannelRecord(name, count) for name, count in found.items()])

    async def nodes(self) -> Sequence[NodeRecord]:
        """Return the one node."""
        return [self._serving().as_record()]

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes."""
        return {
            **self._store.statistics(),
            "published": self._published,
            "replayed": self._replayed,
            "keys_reused": self._keys_reused,
            "refused": self._store.rejected,
            "absent": len(self._graces),
            "graces_refused": self._graces_refused,
        }

    def sweep(self) -> None:
        """Drop expired messages, idempotency keys and positions, all at once."""
        while self.sweep_slice():
            continue

    def sweep_slice(self) -> bool:
        """Drop at most `SWEEP_STEPS` of them; return whether there may be more."""
        return self._store.sweep(self._clock(), at_most=SWEEP_STEPS)

    # ------------------------------------------------------------ inside

    async def _sweep_periodically(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_interval)
            while self.sweep_slice():
                await self._slicer.turn(SWEEP_STEPS * STEP_MICROSECONDS)

    def _on_graces_ended(self, ended: list[tuple[str, Absence]]) -> None:
        for channel, absence in ended:
            self._remove_member(channel, absence.connection, absence)

    def _remove_member(self, channel: str, connection: str, absence: Absence | None = None) -> None:
        """Remove the member of *connection*, with *absence* only if that has not ended."""
        members = self._members.get(channel)
        member = None if members is None else members.leave(connection, absence)
        if not members:
            self._members.pop(channel, None)
        if member is not None and self._node is not None:
            self._node.deliver(Leave(channel, member))

    def _serving(self) -> LocalNode:
        if self._node is None:
            raise BrokerUnavailable("the broker is not started")
        return self._node

    def __repr__(self) -> str:
        return f"<MemoryBroker {self._store}>"


def _acknowledged_level(publication: Publication) -> AckLevel | None:
    """Return the level of the receipt: `STORED` if `REPLICATED` was asked for, as there is no replica."""
    return AckLevel.STORED if publication.level is AckLevel.REPLICATED else None
