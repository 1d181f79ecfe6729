"""Which outboxes wait for a full socket, and for how long."""

from __future__ import annotations

from gateway.clock import FakeClock
from gateway.delivery.full_outboxes import STALLED_SECONDS, FullOutboxes


class FakeOutbox:
    size = 1


def test_a_full_outbox_is_recent_for_a_second() -> None:
    clock = FakeClock()
    full, first, second = FullOutboxes(clock), FakeOutbox(), FakeOutbox()
    full.add(first)
    clock.advance(STALLED_SECONDS / 2)
    full.add(second)
    assert list(full.recent()) == [first, second]
    clock.advance(STALLED_SECONDS / 2)
    assert list(full.recent()) == [second]
    assert (list(full), len(full), first in full) == ([second, first], 2, True)
    clock.advance(STALLED_SECONDS / 2)
    assert list(full.recent()) == []
    assert repr(full) == "<FullOutboxes 0 recent 2 stalled>"


def test_further_messages_do_not_make_a_stalled_outbox_recent() -> None:
    clock = FakeClock()
    full, outbox = FullOutboxes(clock), FakeOutbox()
    for _ in range(4):
        full.add(outbox)
        clock.advance(STALLED_SECONDS / 3)
    assert (list(full.recent()), len(full)) == ([], 1)
    full.add(outbox)
    assert (list(full.recent()), len(full)) == ([], 1)


def test_an_outbox_whose_socket_accepts_more_is_not_full() -> None:
    clock = FakeClock()
    full, first, second = FullOutboxes(clock), FakeOutbox(), FakeOutbox()
    full.add(first)
    clock.advance(STALLED_SECONDS)
    full.recent()
    full.add(second)
    for outbox in (first, second, first):
        full.discard(outbox)
    assert (list(full), first in full, second in full) == ([], False, False)
    full.add(first)
    assert list(full.recent()) == [first]
