import pytest

from gateway.broker.redis.inbox.channel_state import (
    MAX_BUFFERED_ENTRIES,
    ChannelState,
    EntryAction,
    InboxEntry,
)
from protocol.position import MessageId


def message(offset: int, previous_uid: str = "", uid: str = "") -> InboxEntry:
    """The message *offset* of a history whose uids are `u1`, `u2`, …"""
    return InboxEntry(b"m", MessageId(offset, uid or f"u{offset}"), previous_uid or f"u{offset - 1}", b"")


def live_channel(offset: int = 0) -> ChannelState:
    channel = ChannelState("a")
    channel.subscribe("t", has_history=True)
    channel.on_subscribe_reply(channel.generation, MessageId(offset, f"u{offset}"))
    assert channel.on_marker("t", MessageId(offset, f"u{offset}")) is EntryAction.DELIVER
    return channel


UNSTORED = InboxEntry(b"m", None, "-", b"")


def test_entries_before_the_marker_are_dropped() -> None:
    channel = ChannelState("a")
    channel.subscribe("t", has_history=True)
    assert channel.on_entry(message(4)) is EntryAction.DROP
    assert channel.on_marker("another", MessageId(4, "u4")) is EntryAction.DROP
    assert channel.on_marker("t", MessageId(4, "u4")) is EntryAction.DELIVER
    assert channel.on_entry(message(5)) is EntryAction.DELIVER


def test_consecutive_messages_are_delivered_and_a_hole_starts_a_backfill() -> None:
    channel = live_channel()
    assert [channel.on_entry(message(n)) for n in (1, 2)] == [EntryAction.DELIVER] * 2
    assert channel.on_entry(UNSTORED) is EntryAction.DELIVER
    assert channel.on_entry(message(4)) is EntryAction.BACKFILL
    assert channel.on_entry(message(5)) is EntryAction.BUFFER
    assert channel.on_entry(UNSTORED) is EntryAction.BUFFER
    channel.delivered = MessageId(4, "u4")
    buffered = channel.take_buffer()
    assert [channel.on_entry(entry, backfilled=True) for entry in buffered] == [
        EntryAction.DROP,
        EntryAction.DELIVER,
        EntryAction.DELIVER,
    ]


@pytest.mark.parametrize(
    "entry", [message(3, previous_uid="other"), message(2, uid="other"), message(1), message(9)]
)
def test_a_message_that_does_not_follow_on_starts_a_backfill(entry: InboxEntry) -> None:
    channel = live_channel(2)
    assert channel.on_entry(entry) is EntryAction.BACKFILL


def test_a_marker_beyond_the_newest_delivered_message_starts_a_backfill() -> None:
    channel = live_channel(2)
    channel.resubscribe("t2")
    assert channel.on_entry(message(3)) is EntryAction.DROP
    assert channel.on_marker("t", MessageId(2, "u2")) is EntryAction.DROP
    assert channel.on_marker("t2", MessageId(3, "u3")) is EntryAction.BACKFILL
    assert channel.on_entry(message(4)) is EntryAction.BUFFER


def test_a_backfill_begins_at_the_replied_position_where_the_first_marker_never_came() -> None:
    channel = ChannelState("a")
    channel.subscribe("t", has_history=True)
    channel.on_subscribe_reply(channel.generation, MessageId(2, "u2"))
    channel.resubscribe("t2")
    assert channel.on_marker("t2", MessageId(4, "u4")) is EntryAction.BACKFILL
    assert channel.delivered == MessageId(2, "u2")


def test_a_marker_during_a_backfill_makes_it_read_history_once_more() -> None:
    channel = live_channel(2)
    assert channel.on_entry(message(4)) is EntryAction.BACKFILL
    channel.resubscribe("t2")
    assert channel.on_marker("t2", MessageId(6, "u6")) is EntryAction.DELIVER
    assert channel.must_reread


def test_a_subscription_begins_at_a_newer_marker_that_overtook_the_reply() -> None:
    channel = ChannelState("a")
    channel.subscribe("t", has_history=True)
    channel.resubscribe("t2")
    assert channel.on_marker("t2", MessageId(3, "u3")) is EntryAction.DELIVER
    assert channel.on_subscribe_reply(channel.generation, MessageId(1, "u1")) == MessageId(3, "u3")


def test_a_late_reply_returns_the_position_of_the_marker() -> None:
    channel = ChannelState("a")
    channel.subscribe("t", has_history=True)
    assert channel.on_marker("t", MessageId(1, "u1")) is EntryAction.DELIVER
    assert channel.on_entry(message(2)) is EntryAction.DELIVER
    assert channel.on_subscribe_reply(channel.generation, MessageId(1, "u1")) == MessageId(1, "u1")
    assert channel.delivered == MessageId(2, "u2")


def test_the_buffer_is_bounded() -> None:
    channel = live_channel()
    channel.on_entry(message(2))
    for n in range(3, MAX_BUFFERED_ENTRIES + 5):
        channel.on_entry(message(n))
    assert channel.must_reread
    assert len(channel.take_buffer()) == MAX_BUFFERED_ENTRIES


def test_another_subscribe_drops_nothing_for_present_subscribers() -> None:
    channel = live_channel(2)
    channel.subscribe("t2", has_history=True)
    assert channel.on_entry(message(3)) is EntryAction.DELIVER
    assert channel.on_marker("t2", MessageId(3, "u3")) is EntryAction.DELIVER
    assert channel.on_entry(message(4)) is EntryAction.DELIVER


def test_entries_of_a_channel_without_subscribers_are_dropped() -> None:
    channel = live_channel()
    channel.unsubscribe()
    assert channel.on_entry(message(1)) is EntryAction.DROP
    assert channel.on_marker("t", MessageId(1, "u1")) is EntryAction.DROP
    channel.subscribe("t2", has_history=False)
    assert channel.on_entry(UNSTORED) is EntryAction.DROP
    assert channel.on_marker("t2", None) is EntryAction.DELIVER
    assert channel.on_entry(UNSTORED) is EntryAction.DELIVER


def test_entries_of_a_channel_without_history_are_delivered_in_any_order() -> None:
    channel = ChannelState("a")
    channel.subscribe("t", has_history=False)
    channel.on_marker("t", None)
    assert channel.on_entry(message(9)) is EntryAction.DELIVER
    channel.resubscribe("t2")
    assert channel.possible_loss
