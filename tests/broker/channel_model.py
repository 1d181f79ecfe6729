"""The model of one channel with history: everything that any node received of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.broker.base import HistorySlice, Retention
from protocol.messages import Message
from protocol.position import MessageId


@dataclass(frozen=True, slots=True)
class ChannelSnapshot:
    """What was certain about a channel when a read of its history began."""

    newest: int
    """The newest offset that was acknowledged."""
    losses: int
    cleared: int
    clears: int


@dataclass
class ChannelModel:
    """One channel with history: what one node receives must not contradict what another received.

    After a failed publish it is unknown whether its message is stored: it is once a node has received it.
    """

    retention: Retention
    losses: int = 0
    """How often everything, or the newest part, was lost."""
    loss_noticed: bool = True
    """Whether every node knows of the latest loss: until then, new positions may become invalid."""
    values: dict[MessageId, Any] = field(default_factory=dict)
    ids: dict[Any, MessageId] = field(default_factory=dict)
    """By value, since the latest loss: what is published once is stored once."""
    next_ids: dict[MessageId, MessageId] = field(default_factory=dict)
    """By position: the id of the message right after it."""
    positions: dict[MessageId, int] = field(default_factory=dict)
    """Every position that was returned, and how many losses there had been by then."""
    uncertain: set[MessageId] = field(default_factory=set)
    """Positions that were returned between a loss and the moment when every node knew of it."""
    acknowledged: dict[int, MessageId] = field(default_factory=dict)
    """By offset, since the latest loss."""
    cleared: int = 0
    """The offset up to which the history may have been cleared."""
    clears: int = 0
    """How often a clear began or ended."""

    # ------------------------------------------------------------ what nodes receive

    def position_returned(self, position: MessageId, after: MessageId | None = None) -> None:
        """Note that *position* was returned: now, or when the position *after* which it comes was."""
        if position in self.positions:
            return
        self.positions[position] = self.losses if after is None else self.positions[after]
        if after in self.uncertain or (after is None and not self.loss_noticed):
            self.uncertain.add(position)

    def message_received(self, since: MessageId, message: Message) -> MessageId:
        """Check *message*, which a node got right after *since*; return its id."""
        message_id, value = message.message, message.data.value
        assert message_id is not None
        assert message_id.offset == since.offset + 1, f"{message_id} after {since}: a hole or a repetition"
        assert self.next_ids.setdefault(since, message_id) == message_id, "two histories after one position"
        self.message_stored(message_id, value)
        self.position_returned(message_id, since)
        return message_id

    def message_stored(self, message_id: MessageId, value: Any) -> None:
        """Check that *value* is stored under *message_id*, and under no other id."""
        assert self.values.setdefault(message_id, value) == value, "one id for two messages"
        assert self.ids.setdefault(value, message_id) == message_id, f"{value} is stored twice"

    def publish_acknowledged(self, message_id: MessageId) -> None:
        """Check the id that a publisher got."""
        assert self.acknowledged.setdefault(message_id.offset, message_id) == message_id
        self.position_returned(message_id)

    # ------------------------------------------------------------ what happens to the channel

    def writes_lost(self) -> None:
        """Note that everything, or the newest part, is lost."""
        self.losses += 1
        self.loss_noticed = False
        self.ids.clear()
        self.acknowledged.clear()
        self.cleared = 0

    # ------------------------------------------------------------ reads of the history

    def snapshot(self) -> ChannelSnapshot:
        """Return what is certain now."""
        return ChannelSnapshot(max(self.acknowledged, default=0), self.losses, self.cleared, self.clears)

    def check_read(
        self, page: HistorySlice, since: MessageId, limit: int | None, before: ChannelSnapshot
    ) -> None:
        """Check the answer to a read of everything after *since*, begun when *before* was certain."""
        self.position_returned(page.position)
        if not page.recovered:
            assert list(page.messages) == [], "not recovered, but a part of the messages"
            assert not self._must_recover(page, since, before), f"{since} of {page.position} is still stored"
            return
        assert self.positions[since] == self.losses or since in self.uncertain, f"{since} was lost"
        position = self.messages_received(since, page.messages)
        if limit is None:
            assert position == page.position, "the newest messages are missing"
            assert before.losses != self.losses or position.offset >= before.newest, (
                "an acknowledged message is missing"
            )
        else:
            assert len(page.messages) == min(limit, page.position.offset - since.offset)

    def messages_received(self, since: MessageId, messages: Sequence[Message]) -> MessageId:
        """Check *messages*, which a node got right after *since*; return the id of the last one."""
        for message in messages:
            since = self.message_received(since, message)
            if self.positions[since] == self.losses:
                assert self.acknowledged.get(since.offset, since) == since, (
                    "another id was acknowledged there"
                )
        return since

    def _must_recover(self, page: HistorySlice, since: MessageId, before: ChannelSnapshot) -> bool:
        kept = page.position.offset - since.offset <= self.retention.size and since.offset >= self.cleared
        nothing_happened = self.loss_noticed and before.losses == self.losses and before.clears == self.clears
        return (
            kept and nothing_happened and since not in self.uncertain and self.positions[since] == self.losses
        )
