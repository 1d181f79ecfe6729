from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.delivery.flusher import Flusher
from gateway.delivery.outbox import WRITE_BATCH_BYTES, Outbox
from gateway.delivery.outbox_memory import ITEM_BYTES
from gateway.delivery.overflow import DROPPING_POLICIES, POLICIES
from gateway.memory import MIB, MemoryBudget
from gateway.transport.memory import MemoryTransport
from protocol.messages import PongReply
from protocol.position import MessageId
from tests.gateway.delivery.queue_items import FakeSubscriber, message_id, pong_frame
from tests.gateway.virtual_time import no_deadline

LIMIT = 10_000


class Owner:
    """A session, as far as an outbox knows it."""

    def __init__(self) -> None:
        self.behind: dict[str, MessageId] = {}
        self.too_slow_count = self.aborted_count = 0
        self.drained_count = 0
        self.when_too_slow: Callable[[], None] = lambda: None

    def on_fell_behind(self, subscriber: Any, position: MessageId) -> None:
        self.behind[subscriber.name] = position

    def on_too_slow(self) -> None:
        self.too_slow_count += 1
        self.when_too_slow()

    def on_memory_exceeded(self) -> None:
        self.aborted_count += 1

    def on_outbox_drained(self) -> None:
        self.drained_count += 1


class Setup:
    """An outbox and what it needs, on a fake clock."""

    def __init__(self, *, capacity: int | None = None, limit: int = LIMIT, memory: int = MIB) -> None:
        self.clock = FakeClock()
        self.transport = MemoryTransport(capacity=capacity)
        self.owner = Owner()
        self.memory = MemoryBudget(memory)
        self.flusher = Flusher(self.clock, lambda: None, self.clock, delay=0.001, memory=self.memory)
        self.outbox = Outbox(self.transport, self.flusher, self.owner, limit)

    def offer(self, subscriber: FakeSubscriber, first: int, *numbered: bool, size: int = 0) -> None:
        self.outbox.offer(subscriber, subscriber.batch(first, *numbered, size=size))

    def written_items(self) -> list[Any]:
        """Return what was written: pongs as numbers, gaps as their position, messages as their own."""
        return [
            message.id if isinstance(message, PongReply) else (message.type, message_offset(message))
            for message in self.transport.messages
        ]


def message_offset(message: Any) -> int | None:
    position = message.position if message.type == "gap" else message.message
    return None if position is None else int(position.offset)


FEED = FakeSubscriber("feed", "catch_up")


def test_queued_items_are_one_write_at_the_end_of_the_turn() -> None:
    setup = Setup()
    setup.outbox.enqueue(pong_frame(1))
    setup.offer(FEED, 1, True, True)
    setup.outbox.enqueue(pong_frame(2))
    assert setup.transport.writes == []
    assert setup.outbox.size > 0
    setup.clock.run()
    assert setup.written_items() == [1, ("message", 1), ("message", 2), 2]
    assert len(setup.transport.writes) == 1
    assert setup.outbox.size == 0
    assert repr(setup.outbox) == "<Outbox 0 waiting 0 bytes>"


def test_a_single_item_is_written_without_a_copy() -> None:
    setup = Setup()
    batch = FEED.batch(1, True, True)
    setup.outbox.offer(FEED, batch)
    setup.clock.run()
    assert setup.transport.writes[0] is batch.data, "shared with every other connection, not copied"


def test_offer_now_writes_at_once() -> None:
    setup = Setup()
    setup.outbox.offer_now(FEED, FEED.batch(1))
    assert setup.written_items() == [("message", 1)]
    setup.clock.run()
    assert len(setup.transport.writes) == 1


@pytest.mark.parametrize("full", [False, True])
def test_offer_now_is_queued_behind_other_items_and_for_a_full_socket(full: bool) -> None:
    setup = Setup()
    if full:
        setup.transport.fill()
    else:
        setup.outbox.enqueue(pong_frame(1))
    setup.outbox.offer_now(FEED, FEED.batch(1))
    assert setup.written_items() == []
    setup.transport.drain()
    setup.outbox.on_drained()
    assert setup.written_items() == ([] if full else [1]) + [("message", 1)]


def test_nothing_is_written_to_a_full_socket() -> None:
    setup = Setup()
    setup.transport.fill()
    setup.outbox.enqueue(pong_frame(1))
    setup.clock.run()
    assert setup.written_items() == []
    setup.outbox.on_drained()
    assert (setup.written_items(), setup.owner.drained_count) == ([], 0)
    setup.outbox.enqueue(pong_frame(2))
    setup.transport.drain()
    setup.outbox.on_drained()
    assert (setup.written_items(), setup.owner.drained_count) == ([1, 2], 1)
    setup.clock.run()
    assert len(setup.transport.writes) == 1


def test_a_long_queue_is_written_in_batches_until_the_socket_is_full() -> None:
    setup = Setup(limit=20 * WRITE_BATCH_BYTES, capacity=2 * WRITE_BATCH_BYTES)
    for number in range(1, 101):
        setup.offer(FEED, number, size=WRITE_BATCH_BYTES // 10)
    before = setup.outbox.size
    setup.clock.run()
    written = sum(map(len, setup.transport.writes))
    assert len(setup.transport.writes) == 2
    assert 2 * WRITE_BATCH_BYTES <= written < 2.3 * WRITE_BATCH_BYTES
    assert setup.outbox.size == before - written
    for _ in range(20):
        setup.transport.drain()
        setup.outbox.on_drained()
    assert setup.written_items() == [("message", number) for number in range(1, 101)]
    assert (setup.outbox.size, setup.owner.drained_count) == (0, 16)
    assert setup.owner.behind == {}


def test_much_in_one_turn_is_written_and_nothing_dropped() -> None:
    setup = Setup()
    for number in range(1, 101):
        setup.offer(FEED, number, size=1_000)
        assert setup.outbox.size <= LIMIT
    setup.clock.run()
    assert setup.written_items() == [("message", number) for number in range(1, 101)]
    assert (setup.owner.behind, setup.owner.too_slow_count) == ({}, 0)
    assert not any(setup.flusher.statistics()[f"dropped_{policy}"] for policy in DROPPING_POLICIES)


def test_the_outbox_of_a_slow_socket_drops_messages() -> None:
    setup = Setup()
    setup.transport.fill()
    for number in range(1, 20):
        setup.offer(FEED, number, size=1_000)
        assert setup.outbox.size <= LIMIT
    assert setup.owner.behind["feed"].offset >= 0
    assert setup.flusher.statistics()["dropped_catch_up"] > 0


def test_what_is_too_much_in_one_turn_is_written_first_and_dropped_then() -> None:
    setup, number = Setup(capacity=4_000), 0
    while not setup.owner.behind:
        number += 1
        setup.offer(FEED, number, size=1_000)
    written = len(setup.written_items())
    assert setup.written_items() == [("message", number) for number in range(1, written + 1)]
    assert setup.owner.behind == {"feed": message_id(written)}


def test_nothing_is_dropped_where_a_written_batch_makes_enough_room() -> None:
    setup, number = Setup(capacity=WRITE_BATCH_BYTES, limit=3 * WRITE_BATCH_BYTES), 0
    while not setup.transport.writes:
        number += 1
        setup.offer(FEED, number, size=WRITE_BATCH_BYTES // 10)
    assert 0 < setup.outbox.size <= 3 * WRITE_BATCH_BYTES
    assert (setup.owner.behind, setup.flusher.statistics()["dropped_catch_up"]) == ({}, 0)


def test_a_batch_larger_than_the_bound_is_left_to_catch_up() -> None:
    setup = Setup(capacity=WRITE_BATCH_BYTES, limit=2 * WRITE_BATCH_BYTES)
    setup.offer(FEED, 1, size=WRITE_BATCH_BYTES)
    setup.offer(FEED, 2, size=3 * WRITE_BATCH_BYTES)
    assert setup.written_items() == [("message", 1)]
    assert setup.owner.behind == {"feed": message_id(1)}


def test_replies_that_do_not_fit_are_too_slow() -> None:
    setup = Setup()
    setup.transport.fill()
    number = 0
    while not setup.owner.too_slow_count:
        number += 1
        setup.outbox.enqueue(pong_frame(number))
        assert setup.outbox.size <= LIMIT + 100
    assert setup.outbox.size > LIMIT


@pytest.mark.parametrize("way", ["push", "offer", "offer_now"])
def test_nothing_is_written_after_discard(way: str) -> None:
    setup = Setup()
    setup.outbox.enqueue(pong_frame(1))
    setup.outbox.discard()
    setup.transport.drain()
    for number in range(1, 5):
        if way == "push":
            setup.outbox.enqueue(pong_frame(number))
        else:
            getattr(setup.outbox, way)(FEED, FEED.batch(number))
        assert setup.outbox.size == 0
    setup.outbox.on_drained()
    setup.outbox.flush()
    setup.clock.run()
    assert (setup.written_items(), setup.owner.drained_count, setup.owner.too_slow_count) == ([], 0, 0)


@pytest.mark.parametrize("policy", ["disconnect", "drop_oldest"])
def test_the_owner_may_discard_the_outbox_in_on_too_slow(policy: str) -> None:
    setup = Setup()
    setup.owner.when_too_slow = setup.outbox.discard
    setup.transport.fill()
    subscriber = FakeSubscriber("feed", policy)
    for number in range(1, 20):
        setup.offer(subscriber, number, size=1_000)
        for _ in range(10):
            setup.outbox.enqueue(pong_frame(number))
    assert setup.owner.too_slow_count == (1 if policy == "disconnect" else 0)
    setup.outbox.discard()
    assert setup.outbox.size == 0
    setup.transport.drain()
    setup.clock.run()
    assert setup.written_items() == []


class Breaking(MemoryTransport):
    """A transport that breaks during its first write."""

    def __init__(self, outbox: Callable[[], Outbox]) -> None:
        super().__init__()
        self.outbox = outbox

    def write(self, data: bytes) -> None:
        super().write(data)
        self.outbox().discard()


@pytest.mark.parametrize("count", [1, 2, 100])
def test_a_write_may_break_the_socket_and_discard_the_outbox(count: int) -> None:
    setup = Setup()
    setup.transport = Breaking(lambda: setup.outbox)
    setup.outbox = Outbox(setup.transport, setup.flusher, setup.owner, 100 * WRITE_BATCH_BYTES)
    for number in range(count):
        setup.offer(FEED, number + 1, size=WRITE_BATCH_BYTES // 10)
    setup.clock.run()
    assert len(setup.transport.writes) == 1
    assert repr(setup.outbox) == "<Outbox 0 waiting 0 bytes>"


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
    setup = Setup(capacity=capacity)
    setup.owner.when_too_slow = setup.outbox.discard
    subscribers = {policy: FakeSubscriber(policy, policy) for policy in POLICIES}
    numbers = dict.fromkeys(POLICIES, 0)
    pushed = 0
    for step, policy, size in steps:
        if step == "push":
            pushed += 1
            setup.outbox.enqueue(pong_frame(pushed))
        elif step in ("offer", "offer_now") and policy not in setup.owner.behind:
            numbers[policy] += 1
            getattr(setup.outbox, step)(
                subscribers[policy], subscribers[policy].batch(numbers[policy], size=size)
            )
        elif step == "fill":
            setup.transport.fill()
        elif step == "drain":
            setup.transport.drain()
            setup.outbox.on_drained()
        elif step == "turn":
            setup.clock.run()
        assert setup.outbox.size <= LIMIT
        assert setup.flusher.statistics()["bytes"] == setup.outbox.size, "all outboxes that hold bytes"
    for _ in range(50):
        setup.transport.drain()
        setup.outbox.on_drained()
    assert setup.outbox.size == 0
    check_what_was_said(setup, numbers, pushed)


def check_what_was_said(setup: Setup, numbers: dict[str, int], pushed: int) -> None:
    """Check that each channel is in order and every hole has its gap, unless the connection ended."""
    replies = [message.id for message in setup.transport.messages if isinstance(message, PongReply)]
    assert replies == list(range(1, len(replies) + 1))
    for policy, last in numbers.items():
        reached = 0
        for message in setup.transport.messages:
            if getattr(message, "channel", None) == policy:
                offset = message_offset(message)
                assert offset is not None
                assert offset > reached if message.type == "gap" else offset == reached + 1, policy
                reached = offset
        if policy in setup.owner.behind:
            assert setup.owner.behind[policy].offset == reached
        elif not setup.owner.too_slow_count:
            assert reached == last
    assert setup.owner.too_slow_count or len(replies) == pushed


def test_a_discarded_outbox_is_not_counted_as_full() -> None:
    setup = Setup()
    setup.transport.writable = False
    setup.outbox.enqueue(b"\x81\x01a")
    setup.flusher.run()
    assert list(setup.flusher.full_outboxes) == [setup.outbox]
    setup.outbox.enqueue(b"\x81\x01b")  # the next flush is due, and the connection ends before it
    setup.outbox.discard()
    setup.flusher.run()
    assert list(setup.flusher.full_outboxes) == []


def test_an_outbox_is_full_as_soon_as_a_part_of_it_was_written() -> None:
    setup = Setup(capacity=WRITE_BATCH_BYTES, limit=10 * WRITE_BATCH_BYTES)
    for number in range(3):
        setup.offer(FEED, number + 1, True, size=WRITE_BATCH_BYTES)
    setup.flusher.run()
    statistics = setup.flusher.statistics()
    assert (statistics["full"], statistics["bytes"]) == (1, setup.outbox.size)
    assert setup.outbox.size > WRITE_BATCH_BYTES


# ---------------------------------------------------------------- all outboxes together


class Node:
    """Several outboxes, each with a full socket, that share a budget."""

    def __init__(self, memory: int, *policies: str, buffered: int = 0) -> None:
        self.setups = [Setup(limit=10 * LIMIT) for _ in policies]
        flusher = self.flusher = Setup(memory=memory).flusher
        self.subscribers = [FakeSubscriber(f"{policy}-{n}", policy) for n, policy in enumerate(policies)]
        for setup in self.setups:
            setup.flusher = flusher
            setup.outbox = Outbox(setup.transport, flusher, setup.owner, 10 * LIMIT)
            setup.owner.when_too_slow = setup.outbox.discard
            setup.transport.write(bytes(buffered))
            setup.transport.fill()
            setup.outbox.on_full()

    def offer(self, number: int, messages: int, *, size: int = 500) -> None:
        """Offer messages of *size* bytes to one outbox, and end the turn."""
        for offset in range(1, messages + 1):
            self.setups[number].offer(self.subscribers[number], offset, size=size)
        self.flusher.run()

    @property
    def used(self) -> int:
        return self.flusher.outbox_memory.budget.used


def test_beyond_the_memory_of_all_the_largest_outbox_is_shed_first() -> None:
    node = Node(40_000, *["catch_up"] * 3)
    node.offer(0, 10)
    node.offer(1, 20)
    assert [setup.owner.behind for setup in node.setups] == [{}, {}, {}]
    node.offer(2, 15)
    assert [list(setup.owner.behind) for setup in node.setups] == [[], ["catch_up-1"], []]
    assert node.setups[1].outbox.size == 0
    assert node.used == sum(
        setup.outbox.size + ITEM_BYTES * count for setup, count in zip(node.setups, (10, 0, 15), strict=True)
    )
    budget = node.flusher.outbox_memory.budget
    assert (budget.freed, node.flusher.statistics()["shed_disconnected"]) == (1, 0)
    assert node.flusher.statistics()["dropped_catch_up"] == 20


@pytest.mark.parametrize(
    ("policy", "left", "closed"),
    [("catch_up", 0, 0), ("conflate", 1, 0), ("drop_oldest", 0, 0), ("disconnect", 0, 1)],
)
def test_what_is_shed_depends_on_the_policy(policy: str, left: int, closed: int) -> None:
    node = Node(20_000, policy)
    node.offer(0, 30)
    (setup,) = node.setups
    assert setup.owner.too_slow_count == closed
    assert setup.outbox.size // 500 == left
    assert node.flusher.statistics()["shed_disconnected"] == closed
    assert node.used <= 20_000


def test_what_is_enqueued_in_one_turn_is_shed_before_its_end() -> None:
    node = Node(150_000, "catch_up", "catch_up")
    for number in (0, 1):
        for offset in range(1, 100):
            node.setups[number].offer(node.subscribers[number], offset, size=900)
    # No turn has ended: counted whenever it has grown by a batch.
    assert any(setup.owner.behind for setup in node.setups)


def test_replies_are_not_dropped_and_their_client_is_disconnected() -> None:
    node = Node(20_000, "catch_up", "catch_up")
    for number in range(20):
        node.setups[0].outbox.enqueue(bytes(1_000))
        node.offer(1, 1, size=number)
    assert node.setups[0].owner.too_slow_count == 1
    assert node.setups[1].owner.too_slow_count == 0


def test_clients_whose_write_buffers_take_the_memory_are_aborted() -> None:
    node = Node(50_000, *["catch_up"] * 6, buffered=10_000)
    assert node.used == 60_000
    node.flusher.run()
    assert sum(setup.owner.aborted_count for setup in node.setups) == 1
    assert node.used == 50_000


def test_a_socket_that_accepts_more_is_not_counted() -> None:
    node = Node(50_000, "catch_up", buffered=10_000)
    node.offer(0, 10)
    (setup,) = node.setups
    assert node.used == 10_000 + setup.outbox.size + 10 * ITEM_BYTES
    setup.transport.drain()
    setup.outbox.on_drained()
    assert (node.used, len(node.flusher.outbox_memory)) == (0, 0)
    node.setups[0].transport.fill()
    setup.outbox.on_full()
    node.offer(0, 10)
    assert node.used
    setup.outbox.discard()
    node.offer(0, 10)
    assert (node.used, len(node.flusher.outbox_memory)) == (0, 0)


def test_an_outbox_that_is_not_slow_is_written_and_not_shed() -> None:
    setup = Setup(limit=1_000_000, memory=100_000)
    for offset in range(1, 200):
        setup.offer(FEED, offset, size=900)
    setup.clock.run()
    assert setup.owner.behind == {}
    assert setup.written_items() == [("message", offset) for offset in range(1, 200)]
    assert setup.flusher.outbox_memory.budget.used == 0


@given(st.data())
@no_deadline
def test_all_outboxes_together_stay_within_their_memory(data: st.DataObject) -> None:
    policies = data.draw(st.lists(st.sampled_from(POLICIES), min_size=1, max_size=5))
    node = Node(30_000, *policies, buffered=data.draw(st.integers(0, 2_000)))
    for _ in range(data.draw(st.integers(1, 20))):
        number = data.draw(st.integers(0, len(policies) - 1))
        if data.draw(st.booleans()):
            node.offer(number, data.draw(st.integers(1, 30)), size=data.draw(st.integers(0, 1_000)))
        else:
            node.setups[number].transport.drain()
            node.setups[number].outbox.on_drained()
            node.setups[number].transport.fill()
        assert node.used <= 30_000
    for setup in node.setups:
        setup.transport.drain()
        setup.outbox.on_drained()
    assert node.used == 0
