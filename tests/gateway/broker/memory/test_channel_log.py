from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.broker.base import Retention
from gateway.broker.memory.channel_log import ENTRY_OVERHEAD_BYTES, ChannelLog, memory_cost
from protocol.messages import Message
from protocol.payload import payload_of
from protocol.position import MessageId
from tests.gateway.virtual_time import no_deadline

INITIAL = MessageId(0, "zero")
KEPT = Retention(size=3, ttl=10.0)


def message(offset: int, value: Any = None, **other: Any) -> Message:
    return Message("a", payload_of(value), MessageId(offset, f"u{offset}"), **other)


def filled(*offsets: int, retention: Retention = KEPT, now: float = 0.0) -> ChannelLog:
    log = ChannelLog(INITIAL, now)
    for offset in offsets:
        log.append(message(offset), retention, now)
    return log


def offsets(log: ChannelLog) -> list[int]:
    return [m.message.offset for m in log.read(None, None, reverse=False).messages if m.message]


def test_an_empty_log_is_at_its_initial_position() -> None:
    log = ChannelLog(INITIAL, 5.0)
    assert (log.base, log.position, log.size, log.last_expiry, len(log)) == (INITIAL, INITIAL, 0, 5.0, 0)
    assert repr(log) == "<ChannelLog 0-zero…0-zero 0 messages 0 bytes>"


@pytest.mark.parametrize("wrong", [0, 1, 3, 99])
def test_a_message_whose_id_does_not_follow_is_rejected(wrong: int) -> None:
    log = filled(1)
    with pytest.raises(ValueError, match="does not follow 1-u1"):
        log.append(message(wrong), KEPT, 0.0)
    with pytest.raises(ValueError, match="None does not follow"):
        log.append(Message("a", payload_of(1)), KEPT, 0.0)
    assert offsets(log) == [1]


def test_the_oldest_messages_beyond_the_count_are_dropped() -> None:
    log = filled(1, 2, 3, 4, 5)
    assert offsets(log) == [3, 4, 5]
    assert (log.base.offset, log.position.offset) == (2, 5)
    log.append(message(6), Retention(1, 10.0), 0.0)
    assert offsets(log) == [6], "the retention of the newest counts"


def test_each_message_expires_after_its_ttl() -> None:
    log = filled(1, 2, now=0.0)
    log.append(message(3), KEPT, 4.0)
    log.expire(9.999)
    assert offsets(log) == [1, 2, 3]
    log.expire(10.0)
    assert offsets(log) == [3]
    assert log.last_expiry == 14.0
    log.expire(14.0)
    assert (offsets(log), log.base, log.position) == ([], log.position, MessageId(3, "u3"))


def test_an_expired_message_stays_behind_an_older_one_that_has_not_expired() -> None:
    log = ChannelLog(INITIAL, 0.0)
    log.append(message(1), Retention(3, 100.0), 0.0)
    log.append(message(2), Retention(3, 1.0), 0.0)
    log.expire(50.0)
    assert offsets(log) == [1, 2], "a history has no hole"
    log.expire(100.0)
    assert offsets(log) == []


def test_clear_keeps_the_numbering() -> None:
    log = filled(1, 2)
    log.clear(3.0)
    assert (log.base.offset, log.position.offset, log.size, log.last_expiry) == (2, 2, 0, 3.0)
    log.clear(30.0)
    assert log.last_expiry == 3.0, "it was empty by then"
    log.append(message(3), KEPT, 4.0)
    assert offsets(log) == [3]


def test_the_memory_cost_is_payload_plus_tags_plus_overhead() -> None:
    assert memory_cost(message(1, "abc")) == ENTRY_OVERHEAD_BYTES + 5
    assert memory_cost(message(1, "abc", tags={"k": "value", "other": ""})) == ENTRY_OVERHEAD_BYTES + 5 + 11


def test_the_bytes_that_an_append_frees_are_known_before() -> None:
    log = ChannelLog(INITIAL, 0.0)
    for offset in (1, 2, 3):
        log.append(message(offset, "x" * offset), KEPT, 0.0)
    assert log.bytes_freed_by_append(Retention(4, 10.0)) == 0
    assert log.bytes_freed_by_append(KEPT) == ENTRY_OVERHEAD_BYTES + 3
    assert log.bytes_freed_by_append(Retention(2, 10.0)) == 2 * ENTRY_OVERHEAD_BYTES + 3 + 4
    before, freed = log.size, log.bytes_freed_by_append(Retention(1, 10.0))
    log.append(message(4, ""), Retention(1, 10.0), 0.0)
    assert log.size == before - freed + ENTRY_OVERHEAD_BYTES + 2


@no_deadline
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 6), st.floats(0.1, 20.0), st.text(max_size=5)),
            st.tuples(st.just("pass"), st.floats(0.0, 10.0)),
            st.tuples(st.just("clear")),
        )
    )
)
def test_size_and_ids_are_consistent_after_any_steps(steps: list[tuple[Any, ...]]) -> None:
    log, now, offset = ChannelLog(INITIAL, 0.0), 0.0, 0
    for step in steps:
        if step[0] == "append":
            offset += 1
            log.append(message(offset, step[3]), Retention(step[1], step[2]), now)
        elif step[0] == "pass":
            now += step[1]
            log.expire(now)
        else:
            log.clear(now)
        kept = log.read(None, None, reverse=False).messages
        assert log.size == sum(map(memory_cost, kept))
        assert len(log) == len(kept)
        assert log.position.offset == offset
        assert [m.message.offset for m in kept if m.message] == list(range(log.base.offset + 1, offset + 1))
