"""A node of the model: what it follows, and whether what it hears is what the channels say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.broker.base import Broker, Delivery, Envelope, HistoryCleared, UserCommand
from protocol.messages import Gap, Join, Leave
from protocol.position import MessageId
from tests.broker.node import RecordingNode
from tests.broker.spoken import Spoken


@dataclass(eq=False)
class Following:
    """One subscription, from the call to its end."""

    channel: str
    start: int
    """Which of the node's envelopes is the first that may be of it."""
    end: int | None = None
    established: bool = False
    position: MessageId | None = None
    """How far it has heard, where the channel keeps a history."""
    untold: bool = False
    """Whether something was lost that it must still be told of."""
    may_reset: bool = False
    """Whether anything was lost since, or may not have been noticed before."""
    heard: dict[Any, int] = field(default_factory=dict)
    """What a channel without history said, each with the place of its envelope."""
    told: int = -1
    """The place of the latest gap."""
    members: dict[str, type] = field(default_factory=dict)
    """What was said last of each."""

    def covers(self, index: int) -> bool:
        return self.start <= index and (self.end is None or index < self.end)


@dataclass(eq=False)
class Listener:
    """One node with its broker."""

    node: RecordingNode
    broker: Broker
    kept: Mapping[str, Spoken]
    """The channels with history."""
    hears_all: bool = False
    """Whether it is the only node, which is told of what nobody follows as well."""
    history: list[Following] = field(default_factory=list)
    """Every subscription that there was, failed ones included."""
    cursor: int = 0

    @property
    def now(self) -> int:
        """How many envelopes have come."""
        return len(self.node.envelopes)

    def following(self, channel: str) -> Following | None:
        """Return the subscription to *channel*; also one that is being made."""
        for each in reversed(self.history):
            if each.channel == channel and each.end is None:
                return each
        return None

    @property
    def live(self) -> list[Following]:
        """What it follows."""
        return [each for each in self.history if each.established and each.end is None]

    # ------------------------------------------------------------ what it hears

    def listen(self) -> None:
        """Judge what has come since the last time."""
        while self.cursor < self.now:
            envelope = self.node.envelopes[self.cursor]
            self._hear(self.cursor, envelope)
            self.cursor += 1

    def _hear(self, index: int, envelope: Envelope) -> None:
        assert not isinstance(envelope, UserCommand)
        channel = envelope.message.channel if isinstance(envelope, Delivery) else envelope.channel
        found = [each for each in self.history if each.channel == channel and each.covers(index)]
        if self.hears_all and not found:
            return
        assert found, f"nobody at {self.node.name} follows it: {envelope}"
        following = found[-1]
        if not following.established:
            return  # it failed: whatever it heard, nobody has heard
        if isinstance(envelope, Delivery):
            self._message(following, envelope, index)
        elif isinstance(envelope, Gap):
            self._gap(following, envelope, index)
        elif isinstance(envelope, Join | Leave):
            last = following.members.get(envelope.member.connection)
            assert not (isinstance(envelope, Leave) and last is Leave), f"left twice: {envelope}"
            following.members[envelope.member.connection] = type(envelope)
        else:
            assert isinstance(envelope, HistoryCleared)

    def _message(self, following: Following, delivery: Delivery, index: int) -> None:
        spoken = self.kept.get(following.channel)
        if spoken is None:
            value = delivery.message.data.value
            assert value not in following.heard, f"{value} comes twice"
            following.heard[value] = index
            return
        assert following.position is not None
        following.position = spoken.run(following.position, [delivery.message])

    def _gap(self, following: Following, gap: Gap, index: int) -> None:
        spoken = self.kept.get(following.channel)
        following.untold, following.told = False, index
        if spoken is None:
            assert (gap.reason, gap.position) == ("reset", None)
            return
        assert gap.position is not None
        if gap.reason == "reset":
            assert following.may_reset, "nothing was lost"
        else:
            assert gap.reason == "trimmed"
            assert spoken.clears or spoken.retention.size < 10, "history has it"
        spoken.stands(gap.position)
        following.position = gap.position
