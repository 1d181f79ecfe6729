from collections.abc import Callable
from typing import Any

import pytest

from gateway.clock import FakeClock
from gateway.delivery.flusher import LONG_FLUSH_SECONDS, Flusher
from gateway.delivery.outbox import Outbox
from gateway.delivery.overflow import DROPPING_POLICIES
from gateway.transport.memory import MemoryTransport
from protocol.messages import PongReply
from tests.gateway.delivery.queue_items import FakeSubscriber, pong_frame
from tests.gateway.delivery.test_outbox import Owner

DELAY = 0.001
FEED = FakeSubscriber("feed", "catch_up")


class Slow(MemoryTransport):
    """A socket that takes its time, on the clock of a test."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        super().__init__()
        self.clock = clock
        self.seconds = seconds

    def write(self, data: bytes) -> None:
        self.clock.now += self.seconds
        super().write(data)


class Broken(MemoryTransport):
    """A socket that fails."""

    def write(self, data: bytes) -> None:
        raise OSError("broken")


class Desk:
    """A flusher and the outboxes that it flushes."""

    def __init__(self, *links: MemoryTransport, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.settled: list[float] = []
        self.settle: Callable[[], Any] = lambda: None
        self.flusher = Flusher(self.clock, self._settle, self.clock, delay=DELAY)
        self.links = links
        self.outboxes = [Outbox(link, self.flusher, Owner(), 1024 * 1024) for link in links]

    def _settle(self) -> None:
        self.settled.append(self.clock())
        self.settle()

    def push_all(self, *numbers: int) -> None:
        for number in numbers:
            for outbox in self.outboxes:
                outbox.enqueue(pong_frame(number))

    def writes(self) -> list[int]:
        return [len(link.writes) for link in self.links]

    def heard(self) -> list[list[int]]:
        return [
            [message.id for message in link.messages if isinstance(message, PongReply)] for link in self.links
        ]


def test_each_connection_gets_one_write_a_turn() -> None:
    desk = Desk(*(MemoryTransport() for _ in range(5)))
    desk.push_all(1, 2, 3)
    assert desk.writes() == [0] * 5
    desk.clock.run()
    assert desk.writes() == [1] * 5
    desk.push_all(4, 5)
    desk.clock.run()
    assert desk.writes() == [2] * 5
    assert desk.heard() == [[1, 2, 3, 4, 5]] * 5
    assert desk.flusher.statistics()["flushes"] == 2


def test_an_empty_outbox_is_not_written() -> None:
    desk = Desk(MemoryTransport(), MemoryTransport())
    desk.outboxes[0].enqueue(pong_frame(1))
    desk.clock.run()
    assert desk.writes() == [1, 0]
    desk.clock.advance(10.0)
    assert desk.flusher.statistics()["flushes"] == 1


def test_messages_offered_before_the_flush_are_in_the_same_write() -> None:
    desk = Desk(MemoryTransport())
    desk.settle = lambda: desk.outboxes[0].offer(FEED, FEED.batch(1))
    desk.outboxes[0].enqueue(pong_frame(1))
    desk.clock.run()
    assert desk.writes() == [1]
    assert [message.type for message in desk.links[0].messages] == ["pong", "message"]
    desk.clock.run()
    assert desk.settled == [desk.clock()], "a flush that settles asks for no other"


def test_several_requests_are_one_flush() -> None:
    desk = Desk()
    for _ in range(5):
        desk.flusher.request()
    desk.clock.run()
    assert desk.flusher.statistics()["flushes"] == 1


def test_run_flushes_at_once() -> None:
    desk = Desk(MemoryTransport())
    desk.push_all(1)
    desk.flusher.run()
    assert desk.heard() == [[1]]
    desk.clock.run()
    assert desk.writes() == [1]


@pytest.mark.parametrize(
    ("took", "rest"),
    [
        (0.0, 0.0),
        (LONG_FLUSH_SECONDS, 0.0),
        (LONG_FLUSH_SECONDS * 1.5, DELAY),
        (1.0, DELAY),
    ],
)
def test_the_flush_after_a_long_one_is_delayed(took: float, rest: float) -> None:
    clock = FakeClock(0.0)
    link = Slow(clock, took)
    desk = Desk(link, clock=clock)
    desk.push_all(1)
    clock.run()
    ended = clock()
    assert ended == took
    desk.push_all(2)
    clock.run()
    assert desk.writes() == [1 if rest else 2]
    desk.push_all(3)
    clock.advance(rest * 0.99)
    assert desk.writes() == [1 if rest else 3]
    clock.advance(rest * 0.02)
    assert desk.heard() == [[1, 2, 3]]
    assert desk.writes() == [2 if rest else 3]


def test_the_delay_is_as_long_as_configured() -> None:
    clock = FakeClock(0.0)
    link = Slow(clock, 1.0)
    flusher = Flusher(clock, lambda: None, clock, delay=0.25)
    outbox = Outbox(link, flusher, Owner(), 1024)
    outbox.enqueue(pong_frame(1))
    clock.run()
    outbox.enqueue(pong_frame(2))
    clock.advance(0.24)
    assert len(link.writes) == 1
    clock.advance(0.02)
    assert len(link.writes) == 2


def test_a_flush_requested_after_the_delay_is_not_delayed() -> None:
    clock = FakeClock(0.0)
    desk = Desk(Slow(clock, 0.002), clock=clock)
    desk.push_all(1)
    clock.run()
    clock.advance(1.0)
    desk.push_all(2)
    clock.run()
    assert desk.writes() == [2]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_outboxes_are_flushed_although_one_raises(place: int) -> None:
    links: list[MemoryTransport] = [MemoryTransport() for _ in range(2)]
    links.insert(place, Broken())
    desk = Desk(*links)
    desk.push_all(1)
    with pytest.raises(OSError, match="broken"):
        desk.clock.run()
    desk.clock.run()
    del links[place]
    assert [len(link.writes) for link in links] == [1, 1]
    for outbox in desk.outboxes:
        outbox.enqueue(pong_frame(2))
    with pytest.raises(OSError, match="broken"):
        desk.clock.run()
    desk.clock.run()
    assert [len(link.writes) for link in links] == [2, 2]


def test_outboxes_are_flushed_although_before_flush_raises() -> None:
    def fail() -> None:
        raise ValueError("a poisoned message")

    desk = Desk(MemoryTransport())
    desk.settle = fail
    desk.push_all(1)
    with pytest.raises(ValueError, match="poisoned"):
        desk.clock.run()
    assert desk.heard() == [[1]]
    desk.settle = lambda: None
    desk.push_all(2)
    desk.clock.run()
    assert desk.heard() == [[1, 2]]


def test_dropped_counts_are_added_by_policy() -> None:
    desk = Desk()
    assert desk.flusher.statistics() == {"flushes": 0} | {
        f"dropped_{policy}": 0 for policy in DROPPING_POLICIES
    }
    desk.flusher.count_dropped({"catch_up": 2})
    desk.flusher.count_dropped({"catch_up": 1, "conflate": 5})
    statistics = desk.flusher.statistics()
    assert (statistics["dropped_catch_up"], statistics["dropped_conflate"]) == (3, 5)
