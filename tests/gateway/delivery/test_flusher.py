from collections.abc import Callable
from typing import Any

import pytest

from gateway.clock import FakeClock
from gateway.delivery.flusher import LONG_FLUSH_SECONDS, Flusher
from gateway.delivery.outbox import Outbox
from gateway.delivery.overflow import DROPPING_POLICIES
from gateway.memory import MIB, MemoryBudget
from gateway.transport.memory import MemoryTransport
from protocol.messages import PongReply
from tests.gateway.delivery.queue_items import FakeSubscriber, pong_frame
from tests.gateway.delivery.test_outbox import Owner

DELAY = 0.001
FEED = FakeSubscriber("feed", "catch_up")


class SlowTransport(MemoryTransport):
    """A transport whose writes take time on the clock of the test."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        super().__init__()
        self.clock = clock
        self.seconds = seconds

    def write(self, data: bytes) -> None:
        self.clock.now += self.seconds
        super().write(data)


class BrokenTransport(MemoryTransport):
    """A transport whose writes raise."""

    def write(self, data: bytes) -> None:
        raise OSError("broken")


class Setup:
    """A flusher and the outboxes that it flushes."""

    def __init__(self, *transports: MemoryTransport, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.flushed_at: list[float] = []
        self.before_flush: Callable[[], Any] = lambda: None
        self.flusher = Flusher(
            self.clock, self._before_flush, self.clock, delay=DELAY, memory=MemoryBudget(MIB)
        )
        self.transports = transports
        self.outboxes = [Outbox(transport, self.flusher, Owner(), 1024 * 1024) for transport in transports]

    def _before_flush(self) -> None:
        self.flushed_at.append(self.clock())
        self.before_flush()

    def enqueue_all(self, *numbers: int) -> None:
        for number in numbers:
            for outbox in self.outboxes:
                outbox.enqueue(pong_frame(number))

    def writes(self) -> list[int]:
        return [len(transport.writes) for transport in self.transports]

    def received(self) -> list[list[int]]:
        return [
            [message.id for message in transport.messages if isinstance(message, PongReply)]
            for transport in self.transports
        ]


def test_each_connection_gets_one_write_a_turn() -> None:
    setup = Setup(*(MemoryTransport() for _ in range(5)))
    setup.enqueue_all(1, 2, 3)
    assert setup.writes() == [0] * 5
    setup.clock.run()
    assert setup.writes() == [1] * 5
    setup.enqueue_all(4, 5)
    setup.clock.run()
    assert setup.writes() == [2] * 5
    assert setup.received() == [[1, 2, 3, 4, 5]] * 5
    assert setup.flusher.statistics()["flushes"] == 2


def test_an_empty_outbox_is_not_written() -> None:
    setup = Setup(MemoryTransport(), MemoryTransport())
    setup.outboxes[0].enqueue(pong_frame(1))
    setup.clock.run()
    assert setup.writes() == [1, 0]
    setup.clock.advance(10.0)
    assert setup.flusher.statistics()["flushes"] == 1


def test_messages_offered_before_the_flush_are_in_the_same_write() -> None:
    setup = Setup(MemoryTransport())
    setup.before_flush = lambda: setup.outboxes[0].offer(FEED, FEED.batch(1))
    setup.outboxes[0].enqueue(pong_frame(1))
    setup.clock.run()
    assert setup.writes() == [1]
    assert [message.type for message in setup.transports[0].messages] == ["pong", "message"]
    setup.clock.run()
    assert setup.flushed_at == [setup.clock()], "messages offered before the flush request no further one"


def test_several_requests_are_one_flush() -> None:
    setup = Setup()
    for _ in range(5):
        setup.flusher.request()
    setup.clock.run()
    assert setup.flusher.statistics()["flushes"] == 1


def test_run_flushes_at_once() -> None:
    setup = Setup(MemoryTransport())
    setup.enqueue_all(1)
    setup.flusher.run()
    assert setup.received() == [[1]]
    setup.clock.run()
    assert setup.writes() == [1]


@pytest.mark.parametrize(
    ("took", "delay"),
    [
        (0.0, 0.0),
        (LONG_FLUSH_SECONDS, 0.0),
        (LONG_FLUSH_SECONDS * 1.5, DELAY),
        (1.0, DELAY),
    ],
)
def test_the_flush_after_a_long_one_is_delayed(took: float, delay: float) -> None:
    clock = FakeClock(0.0)
    transport = SlowTransport(clock, took)
    setup = Setup(transport, clock=clock)
    setup.enqueue_all(1)
    clock.run()
    ended = clock()
    assert ended == took
    setup.enqueue_all(2)
    clock.run()
    assert setup.writes() == [1 if delay else 2]
    setup.enqueue_all(3)
    clock.advance(delay * 0.99)
    assert setup.writes() == [1 if delay else 3]
    clock.advance(delay * 0.02)
    assert setup.received() == [[1, 2, 3]]
    assert setup.writes() == [2 if delay else 3]


def test_the_delay_is_as_long_as_configured() -> None:
    clock = FakeClock(0.0)
    transport = SlowTransport(clock, 1.0)
    flusher = Flusher(clock, lambda: None, clock, delay=0.25, memory=MemoryBudget(MIB))
    outbox = Outbox(transport, flusher, Owner(), 1024)
    outbox.enqueue(pong_frame(1))
    clock.run()
    outbox.enqueue(pong_frame(2))
    clock.advance(0.24)
    assert len(transport.writes) == 1
    clock.advance(0.02)
    assert len(transport.writes) == 2


def test_a_flush_requested_after_the_delay_is_not_delayed() -> None:
    clock = FakeClock(0.0)
    setup = Setup(SlowTransport(clock, 0.002), clock=clock)
    setup.enqueue_all(1)
    clock.run()
    clock.advance(1.0)
    setup.enqueue_all(2)
    clock.run()
    assert setup.writes() == [2]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_outboxes_are_flushed_although_one_raises(place: int) -> None:
    transports: list[MemoryTransport] = [MemoryTransport() for _ in range(2)]
    transports.insert(place, BrokenTransport())
    setup = Setup(*transports)
    setup.enqueue_all(1)
    with pytest.raises(OSError, match="broken"):
        setup.clock.run()
    setup.clock.run()
    del transports[place]
    assert [len(transport.writes) for transport in transports] == [1, 1]
    for outbox in setup.outboxes:
        outbox.enqueue(pong_frame(2))
    with pytest.raises(OSError, match="broken"):
        setup.clock.run()
    setup.clock.run()
    assert [len(transport.writes) for transport in transports] == [2, 2]


def test_outboxes_are_flushed_although_before_flush_raises() -> None:
    def fail() -> None:
        raise ValueError("a poisoned message")

    setup = Setup(MemoryTransport())
    setup.before_flush = fail
    setup.enqueue_all(1)
    with pytest.raises(ValueError, match="poisoned"):
        setup.clock.run()
    assert setup.received() == [[1]]
    setup.before_flush = lambda: None
    setup.enqueue_all(2)
    setup.clock.run()
    assert setup.received() == [[1, 2]]


def test_dropped_counts_are_added_by_policy() -> None:
    setup = Setup()
    nothing = dict.fromkeys((f"dropped_{policy}" for policy in DROPPING_POLICIES), 0)
    assert setup.flusher.statistics() == {
        "flushes": 0,
        **nothing,
        "bytes": 0,
        "full": 0,
        "stalled": 0,
        "shed_disconnected": 0,
    }
    setup.flusher.count_dropped({"catch_up": 2})
    setup.flusher.count_dropped({"catch_up": 1, "conflate": 5})
    statistics = setup.flusher.statistics()
    assert (statistics["dropped_catch_up"], statistics["dropped_conflate"]) == (3, 5)
