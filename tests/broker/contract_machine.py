"""The broker contract as a state machine: no two nodes receive what contradicts each other.

Actions are data, so that Hypothesis can draw those of one concurrent step; the machine of a broker that can
fail adds rules of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from itertools import pairwise
from typing import Any, TypeVar

import uvloop
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from gateway.broker.base import Retention
from gateway.errors import BrokerUnavailable
from protocol.messages import Member
from protocol.position import MessageId
from tests.broker.channel_model import ChannelModel
from tests.broker.node_model import NodeModel, SubscriptionModel
from tests.broker.recording_node import publication
from tests.broker.redis_fleet import TIMEOUT_SECONDS, eventually

KEPT = {"long": Retention(100_000, 600.0), "kept": Retention(5, 600.0)}
CHANNELS = ["long", "kept", "none"]
NEVER = 10**9

node, channel, stored_channel = st.integers(0, 3), st.sampled_from(CHANNELS), st.sampled_from(sorted(KEPT))
key = st.none() | st.sampled_from(["k", "l"])
actions = st.one_of(
    st.tuples(st.just("publish"), node, channel, key),
    st.tuples(st.just("publish"), node, stored_channel, st.none()),
    st.tuples(st.just("subscribe"), node, channel),
    st.tuples(st.just("unsubscribe"), node, channel),
    st.tuples(st.just("resume"), node, stored_channel, st.integers(0, 99), st.none() | st.integers(0, 4)),
    st.tuples(st.just("read_history"), node, stored_channel),
    st.tuples(st.just("clear"), node, stored_channel),
    st.tuples(st.just("join"), node, channel, st.integers(0, 1)),
    st.tuples(st.just("leave"), node, channel, st.integers(0, 1)),
)

Action = tuple[Any, ...]
T = TypeVar("T")


class ContractMachine(RuleBasedStateMachine):
    """Rules for any broker; `begin` gives the first node."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.channels = {name: ChannelModel(retention) for name, retention in KEPT.items()}
        self.running: list[NodeModel] = []
        self.suspended: list[NodeModel] = []
        self.members: dict[tuple[str, str], NodeModel] = {}
        self.joining: set[tuple[str, str]] = set()
        self.receipts: dict[tuple[str, str, int], MessageId | None] = {}
        self.first_receipts: set[tuple[str, str, int]] = set()
        self.expected: list[tuple[SubscriptionModel, int, str]] = []
        """Subscriptions that must receive a value without history, or a gap at that index or later."""
        self.values_published = 0
        self.losses = 0
        self.step_failed = False
        """Whether a step has failed: then there is nothing to wait for."""
        self.restored = False
        """Whether an older state was restored after a loss: receipts may be from before it."""

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.step_failed = True
        self.runner.run(coroutine)
        for node_model in self.running + self.suspended:
            node_model.check_envelopes()
        self.step_failed = False

    # ------------------------------------------------------------ rules

    @rule(action=actions)
    def do(self, action: Action) -> None:
        self.run(self.action(action))

    @rule(several=st.lists(actions, min_size=2, max_size=6))
    def do_concurrently(self, several: list[Action]) -> None:
        self.run(self.all_of(several))

    @rule()
    def settle(self) -> None:
        self.run(self.settled())

    # ------------------------------------------------------------ actions

    async def all_of(self, several: list[Action]) -> None:
        await asyncio.gather(*map(self.action, several))

    async def action(self, action: Action) -> None:
        name, at, *rest = action
        await getattr(self, f"_{name}")(self.running[at % len(self.running)], *rest)

    async def _publish(self, at: NodeModel, channel: str, key: str | None) -> bool:
        """Return whether it is known to be published."""
        self.values_published += 1
        value = f"{self.values_published}" if key is None else f"{key} after {self.losses} losses"
        place = (channel, key or "", self.losses)
        known, model = place in self.receipts, self.channels.get(channel)
        before = None if model is None else model.snapshot()
        node_models = self.running + self.suspended
        audience = [(it, each.now) for each in node_models for it in each.live if it.channel == channel]
        retention = KEPT.get(channel)
        try:
            receipt = await at.broker.publish(publication(channel, value, key=key, retention=retention))
        except BrokerUnavailable:
            return False
        assert (receipt.id is None) == (model is None)
        if key is not None:
            assert receipt.replayed or not known, "published twice under one key"
            if receipt.replayed and not known and self.restored:
                return True
            assert self.receipts.setdefault(place, receipt.id) == receipt.id
            assert receipt.replayed or place not in self.first_receipts
            self.first_receipts |= set() if receipt.replayed else {place}
        if model is not None and receipt.id is not None and before is not None:
            model.publish_acknowledged(receipt.id)
            model.message_stored(receipt.id, value)
            assert receipt.replayed or receipt.id.offset > before.newest
        elif not receipt.replayed:
            self.expected += [(subscription, now, value) for subscription, now in audience]
        return True

    async def _subscribe(self, at: NodeModel, channel: str) -> None:
        if at.subscription(channel) is not None:
            return
        subscription, model = SubscriptionModel(channel, at.now), self.channels.get(channel)
        at.subscriptions.append(subscription)
        subscription.may_reset = model is not None and not model.loss_noticed
        before = None if model is None else model.snapshot()
        try:
            position = await at.broker.subscribe(channel, KEPT.get(channel))
        except BrokerUnavailable:
            subscription.end = at.now
            return
        assert (position is None) == (model is None)
        if model is not None and position is not None and before is not None:
            model.position_returned(position)
            assert position.offset >= before.newest, "a position older than an acknowledged message"
        subscription.position, subscription.established = position, True

    async def _unsubscribe(self, at: NodeModel, channel: str) -> None:
        subscription = at.subscription(channel)
        if subscription is not None and subscription.established:
            await at.broker.unsubscribe(channel)
            subscription.end = at.now

    async def _resume(self, at: NodeModel, channel: str, which: int, limit: int | None) -> None:
        model = self.channels[channel]
        if not model.positions:
            return
        since = list(model.positions)[which % len(model.positions)]
        before = model.snapshot()
        try:
            page = await at.broker.read(channel, since=since, limit=limit)
        except BrokerUnavailable:
            return
        model.check_read(page, since, limit, before)

    async def _read_history(self, at: NodeModel, channel: str) -> None:
        model = self.channels[channel]
        try:
            page = await at.broker.read(channel)
        except BrokerUnavailable:
            return
        assert page.recovered
        model.position_returned(page.position)
        messages = list(page.messages)
        for earlier, later in pairwise(messages):
            assert earlier.message is not None
            assert later.message is not None
            assert later.message.offset == earlier.message.offset + 1
            if not self.restored:
                model.position_returned(earlier.message)
                model.message_received(earlier.message, later)
        assert len(messages) <= KEPT[channel].size

    async def _clear(self, at: NodeModel, channel: str) -> None:
        model = self.channels[channel]
        model.clears += 1
        model.cleared = NEVER
        try:
            await at.broker.clear(channel)
            model.cleared = (await at.broker.read(channel, limit=0)).position.offset
        except BrokerUnavailable:
            return
        finally:
            model.clears += 1

    async def _join(self, at: NodeModel, channel: str, number: int) -> None:
        place = (channel, f"{at.node.name}.{number}")
        if place in self.members or place in self.joining:
            return
        self.joining.add(place)
        try:
            await at.broker.join(channel, Member(place[1], "ann" if number else at.node.name))
            self.members[place] = at
        except BrokerUnavailable:
            return
        finally:
            self.joining.discard(place)

    async def _leave(self, at: NodeModel, channel: str, number: int) -> None:
        if self.members.pop((channel, f"{at.node.name}.{number}"), None) is not None:
            await at.broker.leave(channel, f"{at.node.name}.{number}")

    # ------------------------------------------------------------ the end of a step

    async def settled(self) -> None:
        """Wait until every subscription has received everything, or a gap where messages are missing."""
        for node_model in self.running:
            await eventually(node_model.broker.ready)
            await eventually(lambda node_model=node_model: self.knows_every_loss(node_model))  # type: ignore[misc]
        for model in self.channels.values():
            model.loss_noticed = True
        for name in self.channels:
            await self._all_received_the_newest(name)
        await self._all_received_the_unstored()
        for name in CHANNELS:
            await self._members_are_right(name)

    def knows_every_loss(self, node_model: NodeModel) -> bool:
        """Whether the subscriptions of *node_model* have received a gap for every loss."""
        node_model.check_envelopes()
        return not any(each.gap_due for each in node_model.live)

    async def _all_received_the_newest(self, channel: str) -> None:
        """Wait until all subscriptions to *channel* have received the newest message."""
        position = (await until_available(lambda: self.running[0].broker.read(channel, limit=0))).position
        self.channels[channel].position_returned(position)
        for node_model in self.running:
            subscription = node_model.subscription(channel)
            if subscription is not None:
                await eventually(lambda at=node_model, it=subscription: _has_received(at, it, position))  # type: ignore[misc]

    async def _all_received_the_unstored(self) -> None:
        """Wait until no subscription misses a value of the channel without history."""
        live = {subscription for node_model in self.running for subscription in node_model.live}
        await eventually(lambda: not self._missing(live))
        self.expected = [each for each in self.expected if each[0] not in live]

    def _missing(self, live: set[SubscriptionModel]) -> list[str]:
        for node_model in self.running:
            node_model.check_envelopes()
        return [
            value
            for subscription, place, value in self.expected
            if subscription in live and value not in subscription.values and subscription.last_gap < place
        ]

    async def _members_are_right(self, channel: str) -> None:
        """Wait until the members of *channel* are those that should be, and `count` is their number."""
        suspended_names = {each.node.name for each in self.suspended}

        async def matches() -> bool:
            found = (await until_available(lambda: self.running[0].broker.presence(channel))).members
            count = await until_available(lambda: self.running[0].broker.count(channel))
            if (count.connections, count.users) != (len(found), len({each.user for each in found})):
                return False
            found_connections = {
                each.connection for each in found if each.connection.split(".")[0] not in suspended_names
            }
            return found_connections == {
                place[1]
                for place, at in self.members.items()
                if place[0] == channel and at.node.name not in suspended_names
            }

        await eventually(matches)

    def teardown(self) -> None:
        try:
            if self.running and not self.step_failed:
                self.run(self.settled())
        finally:
            self.runner.run(self.end())
            self.runner.close()

    async def end(self) -> None:
        for node_model in self.running:
            await node_model.broker.close()


async def until_available(read: Callable[[], Awaitable[T]]) -> T:
    """Return what *read* returns, repeated while it raises `BrokerUnavailable`."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            try:
                return await read()
            except BrokerUnavailable:
                await asyncio.sleep(0.01)


def _has_received(node_model: NodeModel, subscription: SubscriptionModel, position: MessageId) -> bool:
    node_model.check_envelopes()
    return subscription.position == position
