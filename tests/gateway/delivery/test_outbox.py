from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.delivery.flusher import Flusher
from gateway.delivery.outbox import WRITE_BATCH_BYTES, Outbox
from gateway.delivery.overflow import DROPPING_POLICIES, POLICIES
from gateway.transport.memory import MemoryTransport
from protocol.messages import PongReply
from protocol.position import MessageId
from tests.gateway.delivery.queue_items import FakeSubscriber, message_id, pong_frame
from tests.gateway.virtual_time import no_deadline

LIMIT = 10_000


class Owner:
    """A session as an outbox knows it."""

    def __init__(self) -> None:
        self.behind: dict[str, MessageId] = {}
        self.ended = 0
        self.breaths = 0
        self.when_too_slow: Callable[[], None] = lambda: None

    def on_fell_behind(self, subscriber: Any, position: MessageId) -> None:
        self.behind[subscriber.name] = position

    def on_too_slow(self) -> None:
        self.ended += 1
        self.when_too_slow()

    def on_outbox_drained(self) -> None:
        self.breaths += 1


class Desk:
    """An outbox with everything around it, on a clock that stands still."""

    def __init__(self, *, capacity: int | None = None, limit: int = LIMIT) -> None:
        self.clock = FakeClock()
        self.link = MemoryTransport(capacity=capacity)
        self.owner = Owner()
        self.flusher = Flusher(self.clock, lambda: None, self.clock, delay=0.001)
        self.outbox = Outbox(self.link, self.flusher, self.owner, limit)

    def offer(self, follower: FakeSubscriber, first: int, *numbered: bool, size: int = 0) -> None:
        self.outbox.offer(follower, follower.batch(first, *numbered, size=size))

    def said(self) -> list[Any]:
        """Return what was written: pongs as numbers, gaps as their position, messages as their own."""
        return [
            message.id if isinstance(message, PongReply) else (message.type, message_offset(message))
            for message in self.link.messages
        ]


def message_offset(message: Any) -> int | None:
    position = message.position if message.type == "gap" else message.message
    return None if position is None else int(position.offset)


FEED = FakeSubscriber("feed", "catch_up")


def test_queued_items_are_one_write_at_the_end_of_the_turn() -> None:
    desk = Desk()
    desk.outbox.enqueue(pong_frame(1))
    desk.offer(FEED, 1, True, True)
    desk.outbox.enqueue(pong_frame(2))
    assert desk.link.writes == []
    assert desk.outbox.size > 0
    desk.clock.run()
    assert desk.said() == [1, ("message", 1), ("message", 2), 2]
    assert len(desk.link.writes) == 1
    assert desk.outbox.size == 0
    assert repr(desk.outbox) == "<Outbox 0 waiting 0 bytes>"


def test_a_single_item_is_written_without_a_copy() -> None:
    desk = Desk()
    chunk = FEED.batch(1, True, True)
    desk.outbox.offer(FEED, chunk)
    desk.clock.run()
    assert desk.link.writes[0] is chunk.data, "shared with every other connection, not copied"


def test_offer_now_writes_at_once() -> None:
    desk = Desk()
    desk.outbox.offer_now(FEED, FEED.batch(1))
    assert desk.said() == [("message", 1)]
    desk.clock.run()
    assert len(desk.link.writes) == 1


@pytest.mark.parametrize("full", [False, True])
def test_offer_now_is_queued_behind_other_items_and_for_a_full_socket(full: bool) -> None:
    desk = Desk()
    if full:
        desk.link.fill()
    else:
        desk.outbox.enqueue(pong_frame(1))
    desk.outbox.offer_now(FEED, FEED.batch(1))
    assert desk.said() == []
    desk.link.drain()
    desk.outbox.on_drained()
    assert desk.said() == ([] if full else [1]) + [("message", 1)]


def test_nothing_is_written_to_a_full_socket() -> None:
    desk = Desk()
    desk.link.fill()
    desk.outbox.enqueue(pong_frame(1))
    desk.clock.run()
    assert desk.said() == []
    desk.outbox.on_drained()
    assert (desk.said(), desk.owner.breaths) == ([], 0)
    desk.outbox.enqueue(pong_frame(2))
    desk.link.drain()
    desk.outbox.on_drained()
    assert (desk.said(), desk.owner.breaths) == ([1, 2], 1)
    desk.clock.run()
    assert len(desk.link.writes) == 1


def test_a_long_queue_is_written_in_batches_until_the_socket_is_full() -> None:
    desk = Desk(limit=20 * WRITE_BATCH_BYTES, capacity=2 * WRITE_BATCH_BYTES)
    for number in range(1, 101):
        desk.offer(FEED, number, size=WRITE_BATCH_BYTES // 10)
    before = desk.outbox.size
    desk.clock.run()
    written = sum(map(len, desk.link.writes))
    assert len(desk.link.writes) == 2
    assert 2 * WRITE_BATCH_BYTES <= written < 2.3 * WRITE_BATCH_BYTES
    assert desk.outbox.size == before - written
    for _ in range(20):
        desk.link.drain()
        desk.outbox.on_drained()
    assert desk.said() == [("message", number) for number in range(1, 101)]
    assert (desk.outbox.size, desk.owner.breaths) == (0, 16)
    assert desk.owner.behind == {}


def test_much_in_one_turn_is_written_and_nothing_dropped() -> None:
    desk = Desk()
    for number in range(1, 101):
        desk.offer(FEED, number, size=1_000)
        assert desk.outbox.size <= LIMIT
    desk.clock.run()
    assert desk.said() == [("message", number) for number in range(1, 101)]
    assert (desk.owner.behind, desk.owner.ended) == ({}, 0)
    assert not any(desk.flusher.statistics()[f"dropped_{policy}"] for policy in DROPPING_POLICIES)


def test_the_outbox_of_a_slow_socket_drops_messages() -> None:
    desk = Desk()
    desk.link.fill()
    for number in range(1, 20):
        desk.offer(FEED, number, size=1_000)
        assert desk.outbox.size <= LIMIT
    assert desk.owner.behind["feed"].offset >= 0
    assert desk.flusher.statistics()["dropped_catch_up"] > 0


def test_what_is_too_much_in_one_turn_is_written_first_and_dropped_then() -> None:
    desk, number = Desk(capacity=4_000), 0
    while not desk.owner.behind:
        number += 1
        desk.offer(FEED, number, size=1_000)
    written = len(desk.said())
    assert desk.said() == [("message", number) for number in range(1, written + 1)]
    assert desk.owner.behind == {"feed": message_id(written)}


def test_nothing_is_dropped_where_a_written_batch_makes_enough_room() -> None:
    desk, number = Desk(capacity=WRITE_BATCH_BYTES, limit=3 * WRITE_BATCH_BYTES), 0
    while not desk.link.writes:
        number += 1
        desk.offer(FEED, number, size=WRITE_BATCH_BYTES // 10)
    assert 0 < desk.outbox.size <= 3 * WRITE_BATCH_BYTES
    assert (desk.owner.behind, desk.flusher.statistics()["dropped_catch_up"]) == ({}, 0)


def test_a_batch_larger_than_the_bound_is_left_to_catch_up() -> None:
    desk = Desk(capacity=WRITE_BATCH_BYTES, limit=2 * WRITE_BATCH_BYTES)
    desk.offer(FEED, 1, size=WRITE_BATCH_BYTES)
    desk.offer(FEED, 2, size=3 * WRITE_BATCH_BYTES)
    assert desk.said() == [("message", 1)]
    assert desk.owner.behind == {"feed": message_id(1)}


def test_replies_that_do_not_fit_are_too_slow() -> None:
    desk = Desk()
    desk.link.fill()
    number = 0
    while not desk.owner.ended:
        number += 1
        desk.outbox.enqueue(pong_frame(number))
        assert desk.outbox.size <= LIMIT + 100
    assert desk.outbox.size > LIMIT


@pytest.mark.parametrize("way", ["push", "offer", "offer_now"])
def test_nothing_is_written_after_discard(way: str) -> None:
    desk = Desk()
    desk.outbox.enqueue(pong_frame(1))
    desk.outbox.discard()
    desk.link.drain()
    for number in range(1, 5):
        if way == "push":
            desk.outbox.enqueue(pong_frame(number))
        else:
            getattr(desk.outbox, way)(FEED, FEED.batch(number))
        assert desk.outbox.size == 0
    desk.outbox.on_drained()
    desk.outbox.flush()
    desk.clock.run()
    assert (desk.said(), desk.owner.breaths, desk.owner.ended) == ([], 0, 0)


@pytest.mark.parametrize("policy", ["disconnect", "drop_oldest"])
def test_the_owner_may_discard_the_outbox_in_on_too_slow(policy: str) -> None:
    desk = Desk()
    desk.owner.when_too_slow = desk.outbox.discard
    desk.link.fill()
    follower = FakeSubscriber("feed", policy)
    for number in range(1, 20):
        desk.offer(follower, number, size=1_000)
        for _ in range(10):
            desk.outbox.enqueue(pong_frame(number))
    assert desk.owner.ended == (1 if policy == "disconnect" else 0)
    desk.outbox.discard()
    assert desk.outbox.size == 0
    desk.link.drain()
    desk.clock.run()
    assert desk.said() == []


class Breaking(MemoryTransport):
    """A socket that breaks at the first write, before that returns."""

    def __init__(self, outbox: Callable[[], Outbox]) -> None:
        super().__init__()
        self.outbox = outbox

    def write(self, data: bytes) -> None:
        super().write(data)
        self.outbox().discard()


@pytest.mark.parametrize("count", [1, 2, 100])
def test_a_write_may_break_the_socket_and_discard_the_outbox(count: int) -> None:
    desk = Desk()
    desk.link = Breaking(lambda: desk.outbox)
    desk.outbox = Outbox(desk.link, desk.flusher, desk.owner, 100 * WRITE_BATCH_BYTES)
    for number in range(count):
        desk.offer(FEED, number + 1, size=WRITE_BATCH_BYTES // 10)
    desk.clock.run()
    assert len(desk.link.writes) == 1
    assert repr(desk.outbox) == "<Outbox 0 waiting 0 bytes>"


@no_deadline
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["push", "offer", "offer_now", "fill", "drain", "turn"]),
            st.sampled_from(POLICIES),
            st.sampled_from([0, 100, 3_000, 9_000, 20_000]),
        ),
        max_size=60,
    ),
    st.sampled_from([None, 500, 5_000]),
)
def test_memory_is_bounded_and_order_is_kept(steps: list[tuple[str, str, int]], capacity: int | None) -> None:
    desk = Desk(capacity=capacity)
    desk.owner.when_too_slow = desk.outbox.discard
    followers = {policy: FakeSubscriber(policy, policy) for policy in POLICIES}
    numbers = dict.fromkeys(POLICIES, 0)
    pushed = 0
    for step, policy, size in steps:
        if step == "push":
            pushed += 1
            desk.outbox.enqueue(pong_frame(pushed))
        elif step in ("offer", "offer_now") and policy not in desk.owner.behind:
            numbers[policy] += 1
            getattr(desk.outbox, step)(followers[policy], followers[policy].batch(numbers[policy], size=size))
        elif step == "fill":
            desk.link.fill()
        elif step == "drain":
            desk.link.drain()
            desk.outbox.on_drained()
        elif step == "turn":
            desk.clock.run()
        assert desk.outbox.size <= LIMIT
    for _ in range(50):
        desk.link.drain()
        desk.outbox.on_drained()
    assert desk.outbox.size == 0
    check_what_was_said(desk, numbers, pushed)


def check_what_was_said(desk: Desk, numbers: dict[str, int], pushed: int) -> None:
    """Every channel is heard in order, each hole told of, unless the connection ended."""
    replies = [message.id for message in desk.link.messages if isinstance(message, PongReply)]
    assert replies == list(range(1, len(replies) + 1))
    for policy, last in numbers.items():
        reached = 0
        for message in desk.link.messages:
            if getattr(message, "channel", None) == policy:
                offset = message_offset(message)
                assert offset is not None
                assert offset > reached if message.type == "gap" else offset == reached + 1, policy
                reached = offset
        if policy in desk.owner.behind:
            assert desk.owner.behind[policy].offset == reached
        elif not desk.owner.ended:
            assert reached == last
    assert desk.owner.ended or len(replies) == pushed


def test_a_discarded_outbox_is_not_counted_as_full() -> None:
    desk = Desk()
    desk.link.writable = False
    desk.outbox.enqueue(b"\x81\x01a")
    desk.flusher.run()
    assert desk.flusher.full == {desk.outbox}
    desk.outbox.enqueue(b"\x81\x01b")  # the next flush is due, and the connection ends before it
    desk.outbox.discard()
    desk.flusher.run()
    assert desk.flusher.full == set()
