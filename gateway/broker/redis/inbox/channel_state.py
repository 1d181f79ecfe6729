"""One channel as its entries come out of an inbox: what to do with each, decided without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from protocol.position import MessageId

HELD = 1_000
"""Entries of a channel that wait while a hole before them is healed; what is more comes from history, too."""


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """One entry of an inbox that concerns a channel."""

    kind: bytes
    id: MessageId | None
    """Of a message that history keeps."""
    before: str
    """The uid of the message before it."""
    body: bytes


class EntryAction(Enum):
    """What becomes of an entry."""

    DELIVER = auto()
    DROP = auto()
    HOLD = auto()
    HEAL = auto()
    """Something before it is missing: it is held, and history is asked."""


class ChannelState:
    """What this node is routed for, and how far it has heard."""

    __slots__ = (
        "begun",
        "held",
        "last",
        "life",
        "live",
        "missed",
        "name",
        "numbered",
        "overflowed",
        "token",
        "wanted",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.wanted = True
        """Whether somebody here follows it still."""
        self.numbered = False
        """Whether it keeps a history."""
        self.live = False
        """Whether what comes is newer than the latest subscribe."""
        self.token = ""
        """Of the latest subscribe, whose mark in the inbox parts older from newer."""
        self.begun: MessageId | None = None
        """Where this life began: everything after that is delivered."""
        self.last: MessageId | None = None
        self.held: list[InboxEntry] | None = None
        """What waits while history is asked."""
        self.overflowed = False
        self.missed = False
        """Whether something may be missing that no history tells."""
        self.life = 0
        """How often it was followed afresh."""

    def begin(self, token: str, *, numbered: bool) -> None:
        """Be followed from the mark *token* on, by somebody who follows nothing older."""
        followed, self.token = self.wanted and bool(self.token), token
        if followed:
            # Those who follow already go on, with or without a mark before this one.
            self.numbered = self.numbered or numbered
            return
        self.wanted, self.live, self.numbered = True, False, numbered
        self.begun, self.last, self.held, self.missed = None, None, None, False
        self.life += 1

    def begin_again(self, token: str) -> None:
        """Go on from the mark *token*, in another inbox: what was said between may be missing."""
        self.token = token
        self.live = False
        self.missed = True

    def end(self) -> None:
        """Be followed by nobody."""
        self.wanted = False
        self.live = False
        self.held = None
        self.life += 1

    def answered(self, life: int, position: MessageId | None) -> MessageId | None:
        """Hear the position that Redis told who followed it first in *life*; return where they stand.

        That is later where another mark overtook the answer: what was said between the two has not come.
        """
        if life != self.life:
            return position
        if self.last is None:
            self.begun = self.last = position
        return self.begun or position

    def marked(self, token: str, position: MessageId | None) -> EntryAction:
        """Judge a mark: HEAL where something was missed before it, DELIVER where all goes on from here."""
        if token != self.token or not self.wanted:
            return EntryAction.DROP
        self.live = True
        if not self.numbered or position is None:
            return EntryAction.DELIVER
        if self.held is not None:
            # What came between the last look into history and this mark was dropped: look once more.
            self.overflowed = True
            return EntryAction.DELIVER
        if self.last is None:
            self.begun = self.last = position
        if self.last == position:
            return EntryAction.DELIVER
        self.held = []
        return EntryAction.HEAL

    def take(self, entry: InboxEntry, *, healed: bool = False) -> EntryAction:
        """Judge *entry*; *healed* says that history has just told everything up to `last`."""
        if not self.wanted or not self.live:
            return EntryAction.DROP
        if self.held is not None:
            if len(self.held) < HELD:
                self.held.append(entry)
            else:
                self.overflowed = True
                self.missed |= entry.id is None
            return EntryAction.HOLD
        identity = entry.id
        if identity is None or not self.numbered:
            return EntryAction.DELIVER
        last = self.last
        if last is None or (identity.follows(last) and entry.before == last.uid):
            self.last = identity
            return EntryAction.DELIVER
        if healed and identity.offset <= last.offset:
            return EntryAction.DROP
        self.held = [entry]
        return EntryAction.HEAL

    def look_again(self) -> None:
        """Let history tell what was held, too; it cannot tell all."""
        self.missed |= any(entry.id is None for entry in self.held or ())
        self.overflowed, self.held = False, []

    def release(self) -> list[InboxEntry]:
        """Return what was held; nothing is any more."""
        held, self.held, self.overflowed = self.held or [], None, False
        return held

    def __repr__(self) -> str:
        state = "unwanted" if not self.wanted else "live" if self.live else "waiting for its mark"
        return f"<Followed {self.name} at {self.last} {state}>"
