"""Joins and leaves that come together are encoded once per codec, and are one item for each watcher."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.outbox import WRITE_BATCH_BYTES
from gateway.hub.presence_pushes import MAX_DELAY_SECONDS, MAX_WAITING, PresencePushes, delay_for
from gateway.transport.memory import decode_data_frames
from protocol.codec import JSON, MSGPACK, Codec
from protocol.messages import Join, Leave, Member
from tests.gateway.node import running_node
from tests.gateway.virtual_time import advance, no_deadline, on_virtual_time, until_idle


class FakeWatcher:
    """A subscription, as far as presence knows it; its outbox keeps what is enqueued."""

    def __init__(self, connection: str, codec: Codec = JSON) -> None:
        self.member: Member | None = Member(connection, "ann")
        self.codec = codec
        self.outbox: Any = self
        self.items: list[bytes] = []

    def enqueue(self, data: bytes) -> None:
        self.items.append(data)

    @property
    def pushes(self) -> list[Any]:
        frames = (frame for item in self.items for _, frame in decode_data_frames(item))
        return [self.codec.decode_server_message(frame) for frame in frames]


def joins(count: int, info: Any = None) -> list[Join | Leave]:
    return [Join("a", Member(f"j{number}", "ben", info)) for number in range(count)]


def test_what_comes_together_is_encoded_once_per_codec_and_enqueued_once_per_watcher() -> None:
    presence = PresencePushes[FakeWatcher]()
    watchers = [FakeWatcher(f"w{number}", (JSON, MSGPACK)[number % 2]) for number in range(100)]
    for watcher in watchers:
        presence.add(watcher)
    pushes = joins(50)
    for push in pushes:
        presence.collect(push)
    assert not any(watcher.items for watcher in watchers)
    presence.push_waiting()
    presence.push_waiting()
    assert {len(watcher.items) for watcher in watchers} == {1}
    assert len({id(watcher.items[0]) for watcher in watchers}) == 2, "shared by all watchers of a codec"
    assert all(watcher.pushes == pushes for watcher in watchers)


def test_many_or_large_pushes_do_not_wait_and_are_enqueued_in_parts() -> None:
    presence = PresencePushes[FakeWatcher]()
    watcher = FakeWatcher("w")
    presence.add(watcher)
    pushes = joins(MAX_WAITING, info="x" * 1_000)
    for push in pushes:
        presence.collect(push)
    assert watcher.pushes == pushes
    assert max(map(len, watcher.items)) < WRITE_BATCH_BYTES + 2_000
    assert len(watcher.items) < MAX_WAITING / 50


def test_nothing_is_kept_without_watchers() -> None:
    presence = PresencePushes[FakeWatcher]()
    presence.collect(joins(1)[0])
    watcher = FakeWatcher("w")
    presence.add(watcher)
    presence.push_waiting()
    assert watcher.items == []
    assert repr(presence) == "<PresencePushes 0 waiting for 1 watchers>"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["add", "remove", "join", "leave"]), st.integers(0, 4)),
        st.just(("push", 0)),
    ),
    max_size=40,
)


@no_deadline
@given(STEPS)
def test_a_watcher_gets_in_order_what_was_collected_while_it_watched_and_nothing_about_itself(
    steps: list[tuple[str, int]],
) -> None:
    presence = PresencePushes[FakeWatcher]()
    watchers = [FakeWatcher(f"c{number}", (JSON, MSGPACK)[number % 2]) for number in range(5)]
    expected: list[list[Any]] = [[] for _ in watchers]
    waiting: list[list[Any]] = [[] for _ in watchers]
    watching: set[int] = set()
    for step, number in [*steps, ("push", 0)]:
        member = Member(f"c{number}", "ann")
        if step == "add" and number not in watching:
            watching.add(number)
            presence.add(watchers[number])
        elif step == "remove":
            watching.discard(number)
            waiting[number].clear()
            presence.remove(watchers[number])
        elif step in ("join", "leave"):
            push = Join("a", member) if step == "join" else Leave("a", member)
            presence.collect(push)
            for each in watching - {number}:
                waiting[each].append(push)
        elif step == "push":
            presence.push_waiting()
            for each in range(5):
                expected[each] += waiting[each]
                waiting[each].clear()
    assert [watcher.pushes for watcher in watchers] == expected


@pytest.mark.parametrize(
    ("watchers", "delay"),
    [(0, 0.0), (30, 0.0), (1_000, 0.025), (10_000, 0.25), (1_000_000, MAX_DELAY_SECONDS)],
)
def test_the_delay_grows_with_the_number_of_watchers(watchers: int, delay: float) -> None:
    assert delay_for(watchers) == pytest.approx(delay)


@on_virtual_time
async def test_joins_cost_a_watcher_one_write_per_delay_and_not_one_per_join() -> None:
    async with running_node() as node:
        watchers = [await node.connect() for _ in range(200)]
        for watcher in watchers:
            await watcher.subscribe("p:a")
        await advance(MAX_DELAY_SECONDS)
        before = [len(watcher.transport.writes) for watcher in watchers]
        for number in range(100):
            await node.broker.join("p:a", Member(f"j{number}", "ben"))
            await until_idle()
        await advance(MAX_DELAY_SECONDS)
        received = [
            [push for push in watcher.transport.messages if isinstance(push, Join)][-100:]
            for watcher in watchers
        ]
        names = [f"j{number}" for number in range(100)]
        assert all([push.member.connection for push in each] == names for each in received)
        writes = [len(watcher.transport.writes) - had for watcher, had in zip(watchers, before, strict=True)]
        assert set(writes) == {1}, "all joins came before the delay ended"


@on_virtual_time
async def test_a_message_is_delivered_after_the_joins_before_it_and_does_not_wait() -> None:
    async with running_node() as node:
        watchers = [await node.connect() for _ in range(200)]
        for watcher in watchers:
            await watcher.subscribe("hp:a")
        await advance(MAX_DELAY_SECONDS)
        await node.broker.join("hp:a", Member("j", "ben"))
        await node.publish("hp:a", 1)
        await until_idle()
        for watcher in watchers:
            assert [message.type for message in watcher.transport.messages[-2:]] == ["join", "message"]
        await advance(MAX_DELAY_SECONDS)
