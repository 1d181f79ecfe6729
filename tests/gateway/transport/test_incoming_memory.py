"""Incomplete messages of many connections, in bounded memory."""

from gateway.memory import MemoryBudget
from gateway.transport.incoming_memory import UNCOUNTED_BYTES, IncomingMemory


class FakeConnection:
    """A connection that counts nothing any more when it is closed, as `WebSocketTransport` does."""

    def __init__(self, incoming: IncomingMemory) -> None:
        self.incoming = incoming
        self.closed = False

    def refuse_incomplete_message(self) -> None:
        self.closed = True
        self.incoming.count(self, 0)


def test_the_connection_whose_message_began_first_is_closed() -> None:
    incoming = IncomingMemory(MemoryBudget(50_000))
    one, two, three = (FakeConnection(incoming) for _ in range(3))
    incoming.count(one, 20_000)
    incoming.count(two, 10_000)
    incoming.count(one, 25_000)
    assert incoming.budget.used == 35_000
    incoming.count(two, 0)
    incoming.count(two, 25_000)
    assert not any(each.closed for each in (one, two, three))
    incoming.count(three, 10_000)
    assert [each.closed for each in (one, two, three)] == [True, False, False]
    assert (incoming.budget.used, incoming.budget.freed, len(incoming)) == (35_000, 1, 2)


def test_a_few_bytes_are_not_counted_and_one_message_is_always_waited_for() -> None:
    incoming = IncomingMemory(MemoryBudget(10_000))
    one, two = (FakeConnection(incoming) for _ in range(2))
    incoming.count(one, UNCOUNTED_BYTES)
    assert incoming.budget.used == 0
    incoming.count(two, 20_000)
    assert not two.closed
    incoming.count(two, UNCOUNTED_BYTES)
    assert (incoming.budget.used, len(incoming)) == (0, 0)
    assert repr(incoming) == "<IncomingMemory <MemoryBudget 0 of 10000 bytes> of 0 connections>"
