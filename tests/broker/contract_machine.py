"""The broker contract as a state machine: nodes act one by one and at once, and nobody hears contradictions.

Acts are data, so that Hypothesis can draw what is done at once; a broker that can fail adds rules of its own.
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
from tests.broker.listener import Following, Listener
from tests.broker.node import publication
from tests.broker.redis_fleet import TIMEOUT_SECONDS, eventually
from tests.broker.spoken import Spoken

KEPT = {"long": Retention(100_000, 600.0), "kept": Retention(5, 600.0)}
CHANNELS = ["long", "kept", "none"]
NEVER = 10**9

node, channel, kept = st.integers(0, 3), st.sampled_from(CHANNELS), st.sampled_from(sorted(KEPT))
key = st.none() | st.sampled_from(["k", "l"])
acts = st.one_of(
    st.tuples(st.just("publish"), node, channel, key),
    st.tuples(st.just("publish"), node, kept, st.none()),
    st.tuples(st.just("subscribe"), node, channel),
    st.tuples(st.just("unsubscribe"), node, channel),
    st.tuples(st.just("resume"), node, kept, st.integers(0, 99), st.none() | st.integers(0, 4)),
    st.tuples(st.just("look_back"), node, kept),
    st.tuples(st.just("clear"), node, kept),
    st.tuples(st.just("join"), node, channel, st.integers(0, 1)),
    st.tuples(st.just("leave"), node, channel, st.integers(0, 1)),
)

Act = tuple[Any, ...]
T = TypeVar("T")


class Contract(RuleBasedStateMachine):
    """Rules for any broker; `begin` gives the first node."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.kept = {name: Spoken(retention) for name, retention in KEPT.items()}
        self.awake: list[Listener] = []
        self.stunned: list[Listener] = []
        self.members: dict[tuple[str, str], Listener] = {}
        self.joining: set[tuple[str, str]] = set()
        self.receipts: dict[tuple[str, str, int], MessageId | None] = {}
        self.fresh: set[tuple[str, str, int]] = set()
        self.expected: list[tuple[Following, int, str]] = []
        """Who is to hear a value of the channel without history, or of a gap in that place or later."""
        self.said = 0
        self.losses = 0
        self.broken = False
        """Whether an act has failed: then there is nothing to wait for."""
        self.restored = False
        """Whether something older came back after a loss: receipts may be from before it."""

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.broken = True
        self.runner.run(coroutine)
        for listener in self.awake + self.stunned:
            listener.listen()
        self.broken = False

    # ------------------------------------------------------------ rules

    @rule(act=acts)
    def do(self, act: Act) -> None:
        self.run(self.act(act))

    @rule(several=st.lists(acts, min_size=2, max_size=6))
    def do_at_once(self, several: list[Act]) -> None:
        self.run(self.all_of(several))

    @rule()
    def settle(self) -> None:
        self.run(self.settled())

    # ------------------------------------------------------------ acts

    async def all_of(self, several: list[Act]) -> None:
        await asyncio.gather(*map(self.act, several))

    async def act(self, act: Act) -> None:
        name, at, *rest = act
        await getattr(self, f"_{name}")(self.awake[at % len(self.awake)], *rest)

    async def _publish(self, at: Listener, channel: str, key: str | None) -> bool:
        """Return whether it is known to be published."""
        self.said += 1
        value = f"{self.said}" if key is None else f"{key} after {self.losses} losses"
        place = (channel, key or "", self.losses)
        known, spoken = place in self.receipts, self.kept.get(channel)
        before = None if spoken is None else spoken.moment()
        listeners = self.awake + self.stunned
        audience = [(it, each.now) for each in listeners for it in each.live if it.channel == channel]
        retention = KEPT.get(channel)
        try:
            receipt = await at.broker.publish(publication(channel, value, key=key, retention=retention))
        except BrokerUnavailable:
            return False
        assert (receipt.id is None) == (spoken is None)
        if key is not None:
            assert receipt.replayed or not known, "published twice under one key"
            if receipt.replayed and not known and self.restored:
                return True
            assert self.receipts.setdefault(place, receipt.id) == receipt.id
            assert receipt.replayed or place not in self.fresh
            self.fresh |= set() if receipt.replayed else {place}
        if spoken is not None and receipt.id is not None and before is not None:
            spoken.acknowledges(receipt.id)
            spoken.is_under(receipt.id, value)
            assert receipt.replayed or receipt.id.offset > before.top
        elif not receipt.replayed:
            self.expected += [(following, now, value) for following, now in audience]
        return True

    async def _subscribe(self, at: Listener, channel: str) -> None:
        if at.following(channel) is not None:
            return
        following, spoken = Following(channel, at.now), self.kept.get(channel)
        at.history.append(following)
        following.may_reset = spoken is not None and not spoken.noticed
        before = None if spoken is None else spoken.moment()
        try:
            position = await at.broker.subscribe(channel, KEPT.get(channel))
        except BrokerUnavailable:
            following.end = at.now
            return
        assert (position is None) == (spoken is None)
        if spoken is not None and position is not None and before is not None:
            spoken.stands(position)
            assert position.offset >= before.top, "what was acknowledged is no news"
        following.position, following.established = position, True

    async def _unsubscribe(self, at: Listener, channel: str) -> None:
        following = at.following(channel)
        if following is not None and following.established:
            await at.broker.unsubscribe(channel)
            following.end = at.now

    async def _resume(self, at: Listener, channel: str, which: int, limit: int | None) -> None:
        spoken = self.kept[channel]
        if not spoken.positions:
            return
        since = list(spoken.positions)[which % len(spoken.positions)]
        asked = spoken.moment()
        try:
            page = await at.broker.read(channel, since=since, limit=limit)
        except BrokerUnavailable:
            return
        spoken.check(page, since, limit, asked)

    async def _look_back(self, at: Listener, channel: str) -> None:
        spoken = self.kept[channel]
        try:
            page = await at.broker.read(channel)
        except BrokerUnavailable:
            return
        assert page.recovered
        spoken.stands(page.position)
        messages = list(page.messages)
        for earlier, later in pairwise(messages):
            assert earlier.message is not None
            assert later.message is not None
            assert later.message.offset == earlier.message.offset + 1
            if not self.restored:
                spoken.stands(earlier.message)
                spoken.says(earlier.message, later)
        assert len(messages) <= KEPT[channel].size

    async def _clear(self, at: Listener, channel: str) -> None:
        spoken = self.kept[channel]
        spoken.clears += 1
        spoken.cleared = NEVER
        try:
            await at.broker.clear(channel)
            spoken.cleared = (await at.broker.read(channel, limit=0)).position.offset
        except BrokerUnavailable:
            return
        finally:
            spoken.clears += 1

    async def _join(self, at: Listener, channel: str, number: int) -> None:
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

    async def _leave(self, at: Listener, channel: str, number: int) -> None:
        if self.members.pop((channel, f"{at.node.name}.{number}"), None) is not None:
            await at.broker.leave(channel, f"{at.node.name}.{number}")

    # ------------------------------------------------------------ in the end

    async def settled(self) -> None:
        """Wait until everybody has heard everything, or was told that something is missing."""
        for listener in self.awake:
            await eventually(listener.broker.ready)
            await eventually(lambda listener=listener: self.caught_up(listener))  # type: ignore[misc]
        for spoken in self.kept.values():
            spoken.noticed = True
        for name in self.kept:
            await self._everybody_stands(name)
        await self._everybody_heard()
        for name in CHANNELS:
            await self._present(name)

    def caught_up(self, listener: Listener) -> bool:
        """Whether *listener* was told of every loss."""
        listener.listen()
        return not any(each.untold for each in listener.live)

    async def _everybody_stands(self, channel: str) -> None:
        """Wait until all who follow *channel* have heard the newest message."""
        position = (await surely(lambda: self.awake[0].broker.read(channel, limit=0))).position
        self.kept[channel].stands(position)
        for listener in self.awake:
            following = listener.following(channel)
            if following is not None:
                await eventually(lambda at=listener, it=following: _stands(at, it, position))  # type: ignore[misc]

    async def _everybody_heard(self) -> None:
        """Wait until nobody misses anything of the channel without history."""
        awake = {following for listener in self.awake for following in listener.live}
        await eventually(lambda: not self._missing(awake))
        self.expected = [each for each in self.expected if each[0] not in awake]

    def _missing(self, awake: set[Following]) -> list[str]:
        for listener in self.awake:
            listener.listen()
        return [
            value
            for following, place, value in self.expected
            if following in awake and value not in following.heard and following.told < place
        ]

    async def _present(self, channel: str) -> None:
        """Wait until who is in *channel* is who should be."""
        unsure = {each.node.name for each in self.stunned}

        async def right() -> bool:
            found = (await surely(lambda: self.awake[0].broker.presence(channel))).members
            count = await surely(lambda: self.awake[0].broker.count(channel))
            if (count.connections, count.users) != (len(found), len({each.user for each in found})):
                return False
            there = {each.connection for each in found if each.connection.split(".")[0] not in unsure}
            return there == {
                place[1]
                for place, at in self.members.items()
                if place[0] == channel and at.node.name not in unsure
            }

        await eventually(right)

    def teardown(self) -> None:
        try:
            if self.awake and not self.broken:
                self.run(self.settled())
        finally:
            self.runner.run(self.end())
            self.runner.close()

    async def end(self) -> None:
        for listener in self.awake:
            await listener.broker.close()


async def surely(ask: Callable[[], Awaitable[T]]) -> T:
    """Return what *ask* returns as soon as the broker can tell."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            try:
                return await ask()
            except BrokerUnavailable:
                await asyncio.sleep(0.01)


def _stands(listener: Listener, following: Following, position: MessageId) -> bool:
    listener.listen()
    return following.position == position
