"""The model of one node: its subscriptions, and whether each received what its channel published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.broker.base import Broker, Delivery, Envelope, HistoryCleared, UserCommand
from protocol.messages import Gap, Join, Leave
from protocol.position import MessageId
from tests.broker.channel_model import ChannelModel
from tests.broker.recording_node import RecordingNode


@dataclass(eq=False)
class SubscriptionModel:
    """One subscription of a node, from the call of `subscribe` to its end."""

    channel: str
    start: int
    """The index of the first of the node's envelopes that may belong to it."""
    end: int | None = None
    established: bool = False
    position: MessageId | None = None
    """The newest message that it received, where the channel has a history."""
    gap_due: bool = False
    """Whether writes were lost for which it has not received a gap yet."""
    may_reset: bool = False
    """Whether writes were lost since its start, or a loss before it may not have been noticed."""
    values: dict[Any, int] = field(default_factory=dict)
    """The values that it received of a channel without history, each with the index of its envelope."""
    last_gap: int = -1
    """The index of the latest gap."""
    members: dict[str, type] = field(default_factory=dict)
    """By connection: whether it received a `Join` or a `Leave` last."""

    def covers(self, index: int) -> bool:
        return self.start <= index and (self.end is None or index < self.end)


@dataclass(eq=False)
class NodeModel:
    """One node with its broker."""

    node: RecordingNode
    broker: Broker
    channels: Mapping[str, ChannelModel]
    """The channels with history."""
    gets_every_channel: bool = False
    """Whether it is the only node, which also gets channels that it does not subscribe to."""
    subscriptions: list[SubscriptionModel] = field(default_factory=list)
    """Every subscription that there was, failed ones included."""
    cursor: int = 0

    @property
    def now(self) -> int:
        """How many envelopes the node has received."""
        return len(self.node.envelopes)

    def subscription(self, channel: str) -> SubscriptionModel | None:
        """Return the present subscription to *channel*, also one that is not established yet."""
        for each in reversed(self.subscriptions):
            if each.channel == channel and each.end is None:
                return each
        return None

    @property
    def live(self) -> list[SubscriptionModel]:
        """The established subscriptions."""
        return [each for each in self.subscriptions if each.established and each.end is None]

    # ------------------------------------------------------------ what it receives

    def check_envelopes(self) -> None:
        """Check the envelopes that were received since the last call."""
        while self.cursor < self.now:
            envelope = self.node.envelopes[self.cursor]
            self._check(self.cursor, envelope)
            self.cursor += 1

    def _check(self, index: int, envelope: Envelope) -> None:
        assert not isinstance(envelope, UserCommand)
        channel = envelope.message.channel if isinstance(envelope, Delivery) else envelope.channel
        found = [each for each in self.subscriptions if each.channel == channel and each.covers(index)]
        if self.gets_every_channel and not found:
            return
        assert found, f"{self.node.name} has no subscription for {envelope}"
        subscription = found[-1]
        if not subscription.established:
            return  # the subscribe failed: what arrived for it reached no client
        if isinstance(envelope, Delivery):
            self._check_message(subscription, envelope, index)
        elif isinstance(envelope, Gap):
            self._check_gap(subscription, envelope, index)
        elif isinstance(envelope, Join | Leave):
            last = subscription.members.get(envelope.member.connection)
            assert not (isinstance(envelope, Leave) and last is Leave), f"left twice: {envelope}"
            subscription.members[envelope.member.connection] = type(envelope)
        else:
            assert isinstance(envelope, HistoryCleared)

    def _check_message(self, subscription: SubscriptionModel, delivery: Delivery, index: int) -> None:
        model = self.channels.get(subscription.channel)
        if model is None:
            value = delivery.message.data.value
            assert value not in subscription.values, f"{value} was received twice"
            subscription.values[value] = index
            return
        assert subscription.position is not None
        subscription.position = model.messages_received(subscription.position, [delivery.message])

    def _check_gap(self, subscription: SubscriptionModel, gap: Gap, index: int) -> None:
        model = self.channels.get(subscription.channel)
        subscription.gap_due, subscription.last_gap = False, index
        if model is None:
            assert (gap.reason, gap.position) == ("reset", None)
            return
        assert gap.position is not None
        if gap.reason == "reset":
            assert subscription.may_reset, "nothing was lost"
        else:
            assert gap.reason == "trimmed"
            assert model.clears or model.retention.size < 10, "history still has the messages"
        model.position_returned(gap.position)
        subscription.position = gap.position
