import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.encoding import EncodedMessage
from gateway.delivery.reply_size import fitting, member_size, message_size, messages_size
from protocol.codec import CODECS
from protocol.messages import Member, Message, PresenceState
from protocol.payload import payload_of
from protocol.position import MessageId


@given(st.lists(st.integers(0, 50)), st.integers(-10, 200))
def test_the_longest_prefix_that_fits_is_counted(sizes: list[int], room: int) -> None:
    count, size = fitting(sizes, lambda each: each, room=room)
    assert size == sum(sizes[:count])
    assert count == 0 or size <= room
    assert count == len(sizes) or sum(sizes[: count + 1]) > room


def test_a_large_item_ends_the_prefix_even_where_later_ones_would_fit() -> None:
    assert fitting([1, 9, 1], lambda each: each, room=5) == (1, 1)


@pytest.mark.parametrize("value", ["", "x" * 10_000, {"a": [1, 2, 3]}])
def test_the_estimate_of_a_message_is_close_to_what_it_takes(value: object) -> None:
    message = Message("news", payload_of(value), MessageId(1_000, "abcdefgh"), time=1_700_000_000_000)
    encoded = EncodedMessage(message)
    assert messages_size([encoded, encoded]) == 2 * message_size(encoded)
    for codec in CODECS.values():
        assert abs(len(encoded.frame(codec)) - message_size(encoded)) < 150


@pytest.mark.parametrize("info", [None, {"name": "Ann"}, "é" * 100])
def test_the_estimate_of_a_member_is_close_to_what_it_takes(info: object) -> None:
    member = Member("c" * 16, "ann", info)
    for codec in CODECS.values():
        state = PresenceState(1, "a", 100, 100, members=[member] * 100)
        size = len(codec.encode(state)) / 100
        assert size <= member_size(member) + 10
        assert member_size(member) <= size + 50
