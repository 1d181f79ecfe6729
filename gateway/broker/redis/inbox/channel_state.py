"""The order of one channel's inbox entries: what to do with each, decided without I/O.

The entry of a stored message contains the uid of the message before it. If that is not the uid of the message
that was delivered last, messages are missing: `OrderedDelivery` reads the missing messages from history (a
backfill), and buffers the entries that arrive during the backfill.

For each channel that it routes, an `ADD_ROUTES` call to Redis (scripts/add_routes.lua) appends a marker with
a unique token to the node's inbox, in the same step that adds the route and returns the position. Entries
before the marker are older than the subscription, entries after the marker are newer
(docs/redis.md#a-message).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from gateway.broker.redis.inbox.held_entries import HeldEntries
from protocol.position import MessageId

MAX_BUFFERED_ENTRIES = 1_000
"""Entries of a channel that are buffered during a backfill; further entries are dropped, and history is read
once more."""


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """One entry of an inbox that concerns a channel."""

    kind: bytes
    """`m` message, `j` join, `l` leave, `c` history cleared."""
    id: MessageId | None
    """None for an unstored message, and for entries of other kinds."""
    previous_uid: str
    """The uid of the stored message before this one."""
    body: bytes


class EntryAction(Enum):
    """What `OrderedDelivery` does with an entry or a marker."""

    DELIVER = auto()
    DROP = auto()
    BUFFER = auto()
    """The entry was buffered; a backfill is running."""
    BACKFILL = auto()
    """Messages before the entry are missing: the entry was buffered, and a backfill must start."""


class ChannelState:
    """One channel that this node is routed for, and the newest message that it has delivered there."""

    __slots__ = (
        "buffer",
        "delivered",
        "era",
        "generation",
        "has_history",
        "held",
        "marker",
        "marker_seen",
        "must_reread",
        "name",
        "possible_loss",
        "routed_era",
        "start",
        "subscribed",
    )

    def __init__(self, name: str, held: HeldEntries | None = None, era: int = 0) -> None:
        self.name = name
        self.held = HeldEntries() if held is None else held
        """Counts what all channels buffer."""
        self.era = era
        """The era of the routes (`Routes.era`) that the marker belongs to."""
        self.routed_era = era
        """The era in which the channel was routed last."""
        self.subscribed = True
        """Whether the channel still has a subscriber on this node."""
        self.has_history = False
        self.marker = ""
        """The token of the latest `ADD_ROUTES` call."""
        self.marker_seen = False
        """Whether the reader has read the marker of that call: entries before the marker are dropped."""
        self.start: MessageId | None = None
        """The position at which the subscription began; every message after this position is delivered."""
        self.delivered: MessageId | None = None
        """The id of the message that was delivered last, or `start`; None until `start` is known."""
        self.buffer: list[InboxEntry] | None = None
        """The entries that wait for the end of a backfill; None if no backfill is running."""
        self.must_reread = False
        """Whether entries were dropped during the backfill, so that history must be read once more."""
        self.possible_loss = False
        """Whether joins, leaves or unstored messages may be missing: history does not contain them."""
        self.generation = 0
        """Incremented by each subscribe and unsubscribe. Work started under an earlier value is discarded."""

    def subscribe(self, marker: str, *, has_history: bool) -> None:
        """Start or continue the subscription with an `ADD_ROUTES` call that has the token *marker*.

        The first subscriber gets no entry from before the marker. If the channel already has subscribers, no
        entry is dropped, neither before nor after the marker.
        """
        was_subscribed, self.marker = self.subscribed and bool(self.marker), marker
        if was_subscribed:
            self.has_history = self.has_history or has_history
            return
        self.subscribed, self.marker_seen, self.has_history = True, False, has_history
        self._release_buffer()
        self.start, self.delivered, self.buffer, self.possible_loss = None, None, None, False
        self.generation += 1

    def resubscribe(self, marker: str) -> None:
        """Wait for a new *marker*, perhaps in another inbox: entries before the new marker may be missing."""
        self.marker = marker
        self.marker_seen = False
        self.possible_loss = True

    def unsubscribe(self) -> None:
        """Drop every entry from now on: the channel no longer has a subscriber on this node."""
        self.subscribed = False
        self.marker_seen = False
        self._release_buffer()
        self.buffer = None
        self.generation += 1

    def on_subscribe_reply(self, generation: int, position: MessageId | None) -> MessageId | None:
        """Store the *position* of the reply to *generation*; return where the first subscriber begins.

        The result is later than *position* if a newer marker was read before the reply: the entries between
        the two were dropped.
        """
        if generation != self.generation:
            return position
        if self.delivered is None:
            self.start = self.delivered = position
        return self.start or position

    def on_marker(self, marker: str, position: MessageId | None) -> EntryAction:
        """Decide on a marker, which was appended to the inbox when the channel was at *position*.

        BACKFILL if messages before the marker were missed; DELIVER if the entries after it are consecutive.
        """
        if marker != self.marker or not self.subscribed:
            return EntryAction.DROP
        self.marker_seen = True
        if not self.has_history or position is None:
            return EntryAction.DELIVER
        if self.buffer is not None:
            # Entries between the latest read of history and this marker were dropped.
            self.must_reread = True
            return EntryAction.DELIVER
        if self.delivered is None:
            self.start = self.delivered = position
        if self.delivered == position:
            return EntryAction.DELIVER
        self.buffer = []
        return EntryAction.BACKFILL

    def on_entry(self, entry: InboxEntry, *, backfilled: bool = False) -> EntryAction:
        """Decide on *entry*; *backfilled*: a backfill up to `delivered` has ended, which buffered *entry*."""
        if not self.subscribed or not self.marker_seen:
            return EntryAction.DROP
        if self.buffer is not None:
            self._hold_or_drop(entry, self.buffer)
            return EntryAction.BUFFER
        message_id = entry.id
        if message_id is None or not self.has_history:
            return EntryAction.DELIVER
        delivered = self.delivered
        if delivered is None or (message_id.follows(delivered) and entry.previous_uid == delivered.uid):
            self.delivered = message_id
            return EntryAction.DELIVER
        if backfilled and message_id.offset <= delivered.offset:
            return EntryAction.DROP
        self.buffer = []
        self._hold_or_drop(entry, self.buffer)
        return EntryAction.BACKFILL

    def discard_buffer(self) -> None:
        """Empty the buffer: history is read once more for its messages, but its joins and leaves are lost."""
        self.possible_loss |= any(entry.id is None for entry in self.buffer or ())
        self._release_buffer()
        self.must_reread, self.buffer = False, []

    def take_buffer(self) -> list[InboxEntry]:
        """End the backfill and return the entries that were buffered during it."""
        self._release_buffer()
        entries, self.buffer, self.must_reread = self.buffer or [], None, False
        return entries

    def hold(self, entries: Sequence[InboxEntry]) -> None:
        """Buffer *entries*, for a backfill that is running."""
        if self.buffer is not None:
            self.buffer.extend(entries)
            self.held.add(entries)

    def _hold_or_drop(self, entry: InboxEntry, buffer: Sequence[InboxEntry]) -> None:
        if len(buffer) < MAX_BUFFERED_ENTRIES and self.held.has_room(entry):
            self.hold([entry])
        else:
            self.held.dropped += 1
            self.must_reread = True
            self.possible_loss |= entry.id is None

    def _release_buffer(self) -> None:
        """Count the buffered entries no longer; the caller drops them."""
        if self.buffer:
            self.held.remove(self.buffer)

    def __repr__(self) -> str:
        if not self.subscribed:
            state = "unsubscribed"
        else:
            state = "live" if self.marker_seen else "waiting for its marker"
        return f"<ChannelState {self.name} at {self.delivered} {state}>"
