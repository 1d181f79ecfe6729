"""Delivers the entries of an inbox in order; reads missing messages from history (backfill)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from gateway.broker.base import Envelope, HistoryCleared, PossibleLoss
from gateway.broker.redis import codec, timeouts
from gateway.broker.redis.inbox.channel_state import ChannelState, EntryAction, InboxEntry
from gateway.broker.redis.inbox.routes import Routes
from gateway.broker.redis.membership.lease import Lease
from gateway.broker.redis.operations.history import HistoryReader
from gateway.errors import GatewayError
from gateway.tasks import Tasks
from protocol.messages import Gap, Join, Leave
from protocol.position import MessageId

BACKFILL_PAGE_MESSAGES, BACKFILL_PAGE_BYTES = 500, 1024 * 1024
"""The maximum number of messages, and of their bytes, that one read of a backfill returns."""

MAX_BACKFILLS = 16
"""Backfills that run at once: after an outage thousands of channels miss messages, and each running backfill
holds one page in memory."""


class OrderedDelivery:
    """Delivers the entries of one shard's inbox."""

    def __init__(
        self,
        routes: Routes,
        history: HistoryReader,
        lease: Lease,
        tasks: Tasks,
        *,
        deliver: Callable[[Envelope], None],
        on_node_entry: Callable[[bytes, list[bytes], bytes], None],
    ) -> None:
        """Prepare to deliver; `on_inbox_entry` is called by the reader of the inbox.

        Args:
            routes: The channels that this node is routed for; entries of other channels are dropped.
            history: Backfills read from it.
            lease: Backfills deliver only while it is held: a fenced node must not deliver stale messages.
            tasks: Owner of the backfills.
            deliver: Called with every envelope of a channel.
            on_node_entry: Called with kind, head and body of every entry that does not concern a channel.
        """
        self._routes = routes
        self._history = history
        self._lease = lease
        self._tasks = tasks
        self._deliver = deliver
        self._on_node_entry = on_node_entry
        self._backfills = asyncio.Semaphore(MAX_BACKFILLS)
        self.backfilled = self.gaps = 0
        """Messages that were delivered from history; gaps that were delivered."""

    def on_inbox_entry(self, head: bytes, body: bytes) -> None:
        """Deliver, buffer or drop one entry; called in the order of the inbox.

        The kind of an entry is the first byte of its head (docs/redis.md#entries-of-an-inbox).
        """
        kind = head[:1]
        if kind == b"m":
            _, offset, uid, previous_uid, name = head.split(b" ", 4)
            if (channel := self._channel(name)) is not None:
                message_id = None if offset == b"0" else MessageId(int(offset), uid.decode())
                self._on_entry(channel, InboxEntry(kind, message_id, previous_uid.decode(), body))
        elif kind in _UNSTORED_KINDS:
            if (channel := self._channel(head[2:])) is not None:
                self._on_entry(channel, InboxEntry(kind, None, "", body))
        elif kind == b"s":
            _, offset, uid, marker, name = head.split(b" ", 4)
            if (channel := self._channel(name)) is not None:
                self._on_marker(channel, marker.decode(), MessageId(int(offset), uid.decode()))
        else:
            self._on_node_entry(kind, head.split(b" "), body)

    def _channel(self, name: bytes) -> ChannelState | None:
        routes = self._routes
        channel = routes.channels.get(name)
        if channel is None or channel.era == routes.era:
            return channel
        return routes.current(channel)

    def _on_marker(self, channel: ChannelState, marker: str, position: MessageId) -> None:
        action = channel.on_marker(marker, position if channel.has_history else None)
        if action is EntryAction.BACKFILL:
            self._tasks.spawn(self._backfill(channel, channel.generation))
        elif action is EntryAction.DELIVER and channel.buffer is None:
            self._report_possible_loss(channel)

    def _on_entry(self, channel: ChannelState, entry: InboxEntry, *, backfilled: bool = False) -> None:
        action = channel.on_entry(entry, backfilled=backfilled)
        if action is EntryAction.DELIVER:
            self._deliver_entry(channel.name, entry)
        elif action is EntryAction.BACKFILL:
            self._tasks.spawn(self._backfill(channel, channel.generation))

    def _deliver_entry(self, name: str, entry: InboxEntry) -> None:
        if entry.kind == b"m":
            self._deliver(codec.unpack_delivery(name, entry.id, entry.body))
        elif entry.kind == b"c":
            self._deliver(HistoryCleared(name))
        else:
            envelope_type = Join if entry.kind == b"j" else Leave
            self._deliver(envelope_type(name, codec.unpack_member(entry.body)))

    def _report_possible_loss(self, channel: ChannelState) -> None:
        """Deliver a `PossibleLoss` or a gap if entries may be missing that history does not store.

        Called only after all stored messages before the missing entries were delivered.
        """
        possible_loss, channel.possible_loss = channel.possible_loss, False
        if not possible_loss or channel.name.startswith("="):
            return
        if channel.has_history:
            self._deliver(PossibleLoss(channel.name))
        else:
            self._deliver_gap(channel, "reset", None)

    def _deliver_gap(self, channel: ChannelState, reason: str, position: MessageId | None) -> None:
        self.gaps += 1
        channel.possible_loss = False
        self._deliver(Gap(channel.name, reason, position))

    # ------------------------------------------------------------ backfill

    async def _backfill(self, channel: ChannelState, generation: int) -> None:
        """Deliver the missing messages from history, or a gap; then the entries buffered meanwhile."""
        while channel.generation == generation and not await self._backfill_next_page(channel, generation):
            continue
        if channel.generation != generation:
            return
        self._report_possible_loss(channel)
        entries = channel.take_buffer()
        for number, entry in enumerate(entries):
            self._on_entry(channel, entry, backfilled=True)
            if channel.buffer is not None:
                channel.hold(entries[number + 1 :])
                return

    async def _backfill_next_page(self, channel: ChannelState, generation: int) -> bool:
        """Deliver the next page, once fewer than `MAX_BACKFILLS` run; return whether it was the last page."""
        async with self._backfills:
            await self._lease.wait_until_held()
            return channel.generation == generation and await self._backfill_page(channel, generation)

    async def _backfill_page(self, channel: ChannelState, generation: int) -> bool:
        try:
            page = await self._history.page(
                channel.name, channel.delivered, BACKFILL_PAGE_MESSAGES, BACKFILL_PAGE_BYTES
            )
        except GatewayError:
            await asyncio.sleep(timeouts.jittered(timeouts.INBOX_READ_RETRY_SECONDS, random.random()))
            return False
        except Exception as error:  # noqa: BLE001 (a history that cannot be decoded becomes a gap)
            self._tasks.report(error)
            if channel.generation == generation:
                channel.delivered = None
                self._deliver_gap(channel, "reset", None)
            return True
        await self._lease.wait_until_held()
        if channel.generation != generation:
            return False
        if page.gap_reason:
            channel.delivered = page.position
            self._deliver_gap(channel, page.gap_reason, page.position)
        for delivery in page.deliveries:
            self.backfilled += 1
            channel.delivered = delivery.message.message
            self._deliver(delivery)
        if channel.delivered != page.position:
            return False
        if channel.must_reread:
            channel.discard_buffer()
            return False
        return True

    def __repr__(self) -> str:
        return f"<OrderedDelivery {self.backfilled} backfilled {self.gaps} gaps>"


_UNSTORED_KINDS = frozenset((b"j", b"l", b"c"))
"""Kinds of entries of a channel that history does not store: joins, leaves, cleared histories."""
