"""The order of one channel's inbox entries: what to do with each, decided without I/O.

The entry of a stored message names the uid of the message before it. Where that is not the one that was
delivered last, messages are missing: the dispatcher reads them from history (a backfill), and the entries
that arrive meanwhile are buffered.

Every `ADD_ROUTE` call to Redis (scripts/add_route.lua) puts a marker with a token of its own into the node's
inbox, in the same step that adds the route and returns the position: entries before the marker are older than
the subscription, entries after it are newer (docs/redis.md#a-message).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from protocol.position import MessageId

MAX_BUFFERED_ENTRIES = 1_000
"""Entries of a channel that are buffered during a backfill; those beyond it are read from history as well."""


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """One entry of an inbox that concerns a channel."""

    kind: bytes
    """`m` message, `j` join, `l` leave, `c` history cleared."""
    id: MessageId | None
    """None for what history does not store."""
    previous_uid: str
    """The uid of the stored message before this one."""
    body: bytes


class EntryAction(Enum):
    """What the dispatcher does with an entry or a marker."""

    DELIVER = auto()
    DROP = auto()
    BUFFER = auto()
    """The entry was buffered; a backfill is under way."""
    BACKFILL = auto()
    """Messages before it are missing: the entry was buffered, and a backfill must start."""


class ChannelState:
    """One channel that this node is routed for, and the newest message that it has delivered there."""

    __slots__ = (
        "buffer",
        "delivered",
        "generation",
        "has_history",
        "marker",
        "marker_seen",
        "must_reread",
        "name",
        "possible_loss",
        "start",
        "subscribed",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.subscribed = True
        """Whether the channel still has a subscriber on this node."""
        self.has_history = False
        self.marker = ""
        """The token of the latest `ADD_ROUTE` call."""
        self.marker_seen = False
        """Whether the reader is past that call's marker: entries before it are dropped."""
        self.start: MessageId | None = None
        """The position at which the present subscription began; everything after it is delivered."""
        self.delivered: MessageId | None = None
        """The newest message that was delivered, or `start`; None until it is known."""
        self.buffer: list[InboxEntry] | None = None
        """The entries that wait for the end of a backfill; None where none is under way."""
        self.must_reread = False
        """Whether entries were dropped during the backfill, so that history must be read once more."""
        self.possible_loss = False
        """Whether joins, leaves or unstored messages may be missing: no history can tell."""
        self.generation = 0
        """Counts subscribes and unsubscribes: what was begun in an earlier one no longer counts."""

    def subscribe(self, marker: str, *, has_history: bool) -> None:
        """Begin, or go on, being subscribed with an `ADD_ROUTE` call that has the token *marker*.

        The first subscriber gets nothing from before the marker. Where there are subscribers already, nothing
        is dropped for them, before or after this marker.
        """
        was_subscribed, self.marker = self.subscribed and bool(self.marker), marker
        if was_subscribed:
            self.has_history = self.has_history or has_history
            return
        self.subscribed, self.marker_seen, self.has_history = True, False, has_history
        self.start, self.delivered, self.buffer, self.possible_loss = None, None, None, False
        self.generation += 1

    def resubscribe(self, marker: str) -> None:
        """Wait for another *marker*, perhaps in another inbox: entries before it may be missing."""
        self.marker = marker
        self.marker_seen = False
        self.possible_loss = True

    def unsubscribe(self) -> None:
        """Drop every entry from now on: the channel has no subscriber on this node any more."""
        self.subscribed = False
        self.marker_seen = False
        self.buffer = None
        self.generation += 1

    def on_subscribe_reply(self, generation: int, position: MessageId | None) -> MessageId | None:
        """Take the *position* that Redis returned in *generation*; return where the first subscriber begins.

        That is later than *position* where a newer marker overtook the reply: entries between were dropped.
        """
        if generation != self.generation:
            return position
        if self.delivered is None:
            self.start = self.delivered = position
        return self.start or position

    def on_marker(self, marker: str, position: MessageId | None) -> EntryAction:
        """Decide on a marker in the inbox, made when the channel was at *position*.

        BACKFILL where messages before the marker were missed; DELIVER where the entries after it follow on.
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
        """Decide on *entry*; *backfilled*: it was buffered until a backfill delivered up to `delivered`."""
        if not self.subscribed or not self.marker_seen:
            return EntryAction.DROP
        if self.buffer is not None:
            if len(self.buffer) < MAX_BUFFERED_ENTRIES:
                self.buffer.append(entry)
            else:
                self.must_reread = True
                self.possible_loss |= entry.id is None
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
        self.buffer = [entry]
        return EntryAction.BACKFILL

    def discard_buffer(self) -> None:
        """Empty the buffer: history, read once more, has its messages; joins and leaves in it are lost."""
        self.possible_loss |= any(entry.id is None for entry in self.buffer or ())
        self.must_reread, self.buffer = False, []

    def take_buffer(self) -> list[InboxEntry]:
        """End the backfill and return the entries that were buffered during it."""
        entries, self.buffer, self.must_reread = self.buffer or [], None, False
        return entries

    def __repr__(self) -> str:
        if not self.subscribed:
            state = "unsubscribed"
        else:
            state = "live" if self.marker_seen else "waiting for its marker"
        return f"<ChannelState {self.name} at {self.delivered} {state}>"
