"""What a channel has said, put together from everything that anybody was told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.broker.base import HistorySlice, Retention
from protocol.messages import Message
from protocol.position import MessageId


@dataclass(frozen=True, slots=True)
class Moment:
    """What was certain about a channel when somebody asked for its history."""

    top: int
    """The newest offset that was acknowledged."""
    losses: int
    cleared: int
    clears: int


@dataclass
class Spoken:
    """One channel with history: nobody may be told what contradicts what another was told.

    Where a publish failed nobody knows whether it is part of the history: it is once somebody was told so.
    """

    retention: Retention
    losses: int = 0
    """How often everything, or the newest part, was lost."""
    noticed: bool = True
    """Whether everybody who could has heard of the latest loss: until then, positions may die once more."""
    values: dict[MessageId, Any] = field(default_factory=dict)
    identities: dict[Any, MessageId] = field(default_factory=dict)
    """Since the latest loss: who says something once is heard once."""
    followers: dict[MessageId, MessageId] = field(default_factory=dict)
    """Position to the message that comes right after it."""
    positions: dict[MessageId, int] = field(default_factory=dict)
    """Every position that anybody was told, and how often the channel had lost something by then."""
    shaky: set[MessageId] = field(default_factory=set)
    """Positions told between a loss and everybody's noticing it."""
    acknowledged: dict[int, MessageId] = field(default_factory=dict)
    """By offset, since the latest loss."""
    cleared: int = 0
    """The offset up to which history may have been cleared."""
    clears: int = 0
    """How often somebody began or ended to clear it."""

    # ------------------------------------------------------------ what is told

    def stands(self, position: MessageId, behind: MessageId | None = None) -> None:
        """Somebody was told *position*: just now, or when what is *behind* it was told."""
        if position in self.positions:
            return
        self.positions[position] = self.losses if behind is None else self.positions[behind]
        if behind in self.shaky or (behind is None and not self.noticed):
            self.shaky.add(position)

    def says(self, since: MessageId, message: Message) -> MessageId:
        """Somebody heard *message* right after *since*; return where that leaves them."""
        identity, value = message.message, message.data.value
        assert identity is not None
        assert identity.offset == since.offset + 1, f"{identity} after {since}: a hole or a repetition"
        assert self.followers.setdefault(since, identity) == identity, "two histories after one position"
        self.is_under(identity, value)
        self.stands(identity, since)
        return identity

    def is_under(self, identity: MessageId, value: Any) -> None:
        """*value* is stored under *identity*, and under no other."""
        assert self.values.setdefault(identity, value) == value, "one id for two messages"
        assert self.identities.setdefault(value, identity) == identity, f"{value} is there twice"

    def acknowledges(self, identity: MessageId) -> None:
        """A publisher was told that its message is stored under *identity*."""
        assert self.acknowledged.setdefault(identity.offset, identity) == identity
        self.stands(identity)

    # ------------------------------------------------------------ what happens to it

    def loses(self) -> None:
        """Everything, or its newest part, is gone."""
        self.losses += 1
        self.noticed = False
        self.identities.clear()
        self.acknowledged.clear()
        self.cleared = 0

    # ------------------------------------------------------------ what a history may say

    def moment(self) -> Moment:
        """Return what is certain now."""
        return Moment(max(self.acknowledged, default=0), self.losses, self.cleared, self.clears)

    def check(self, page: HistorySlice, since: MessageId, limit: int | None, asked: Moment) -> None:
        """Judge what was answered to who *asked* for everything after *since*."""
        self.stands(page.position)
        if not page.recovered:
            assert list(page.messages) == [], "a part of what was missed"
            assert not self._must_recover(page, since, asked), f"{since} of {page.position} is still there"
            return
        assert self.positions[since] == self.losses or since in self.shaky, f"{since} was lost"
        position = self.run(since, page.messages)
        if limit is None:
            assert position == page.position, "the newest are missing"
            assert asked.losses != self.losses or position.offset >= asked.top, "acknowledged, and missing"
        else:
            assert len(page.messages) == min(limit, page.position.offset - since.offset)

    def run(self, since: MessageId, messages: Sequence[Message]) -> MessageId:
        """Somebody heard *messages* right after *since*; return where that leaves them."""
        for message in messages:
            since = self.says(since, message)
            if self.positions[since] == self.losses:
                assert self.acknowledged.get(since.offset, since) == since, "another was acknowledged there"
        return since

    def _must_recover(self, page: HistorySlice, since: MessageId, asked: Moment) -> bool:
        kept = page.position.offset - since.offset <= self.retention.size and since.offset >= self.cleared
        calm = self.noticed and asked.losses == self.losses and asked.clears == self.clears
        return kept and calm and since not in self.shaky and self.positions[since] == self.losses
