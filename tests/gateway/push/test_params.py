"""Names, positions and cursors in paths and queries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.push.errors import RequestRejected
from gateway.push.params import (
    channel_from_path,
    decode_cursor,
    encode_cursor,
    position_from_query,
    require_personal_channel,
    user_from_path,
)
from protocol.position import MessageId


@given(st.text(min_size=1).filter(lambda name: name.isprintable()))
def test_a_cursor_decodes_to_the_name_that_it_was_made_of(name: str) -> None:
    assert decode_cursor(encode_cursor(name)) == name


@pytest.mark.parametrize("cursor", [None, ""])
def test_no_cursor_is_before_every_name(cursor: str | None) -> None:
    assert decode_cursor(cursor) == ""


@pytest.mark.parametrize("cursor", ["?", "ü", "a", "_w"])
def test_a_cursor_that_no_answer_had_is_rejected(cursor: str) -> None:
    with pytest.raises(RequestRejected, match="cursor: ") as rejected:
        decode_cursor(cursor)
    assert rejected.value.status == 422


def test_segments_of_a_path_are_percent_decoded() -> None:
    assert channel_from_path("%40ann%2Ex") == "@ann.x"
    assert user_from_path("ann%2F%C3%BC") == "ann/ü"


@pytest.mark.parametrize("segment", ["%FF", "", "a%00", "x" * 129])
def test_a_segment_that_is_no_user_is_rejected(segment: str) -> None:
    with pytest.raises(RequestRejected, match="user: ") as rejected:
        user_from_path(segment)
    assert rejected.value.status == 422


def test_only_a_user_whose_name_fits_has_a_personal_channel() -> None:
    assert require_personal_channel("ann") == "@ann"
    assert require_personal_channel("ann/x|y ü") == "@ann%2Fx%7Cy%20%C3%BC"
    assert require_personal_channel("|" * 128) == "@" + "%7C" * 128
    with pytest.raises(
        RequestRejected, match="user: expected one of at most 511 characters once percent-enc"
    ):
        require_personal_channel("ü" * 128)


def test_a_personal_channel_in_a_path_is_encoded_once_more() -> None:
    assert channel_from_path("@auth0%257C5f7c") == "@auth0%7C5f7c"
    with pytest.raises(RequestRejected, match="channel: expected a personal channel of at most 512"):
        channel_from_path("@auth0%7C5f7c")


def test_a_position_is_a_message_id_or_absent() -> None:
    assert position_from_query(None) is None
    assert position_from_query("7-5f2c9a01d3e4") == MessageId.parse("7-5f2c9a01d3e4")
    with pytest.raises(RequestRejected, match="since: "):
        position_from_query("seven")
