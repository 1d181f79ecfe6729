"""Channel names and message ids: their grammars and their parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.channels import is_channel_name, namespace_of, personal_channel, personal_user
from protocol.position import MessageId
from tests.protocol import strategies
from tests.protocol.strategies import bounded


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "chat:room-42",
        "@anna",
        "@a.b@c.de",
        "a:b:c",
        ":",
        "@",
        "~x_Y.9-",
        "x" * 128,
        f"@{'x' * 511}",
        "@a%7Cb",
    ],
)
def test_a_valid_channel_name(name: str) -> None:
    assert is_channel_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "a/b",
        "a\n",
        "\na",
        "ä",
        "a\x00",
        "x" * 129,
        "a,b",
        "a#",
        "\u0663",
        f"@{'x' * 512}",
        "a%7Cb",
    ],
)
def test_an_invalid_channel_name(name: str) -> None:
    assert not is_channel_name(name)


@pytest.mark.parametrize(
    ("name", "namespace"),
    [
        ("chat:1", "chat"),
        ("a:b:c", "a"),
        ("news", None),
        (":x", ""),
        ("a:", "a"),
        ("@anna", None),
        ("@a:b", None),
    ],
)
def test_the_namespace_is_the_part_before_the_first_colon(name: str, namespace: str | None) -> None:
    assert namespace_of(name) == namespace


@pytest.mark.parametrize(
    ("name", "user"), [("@anna", "anna"), ("@a:b", "a:b"), ("@@", "@"), ("@", None), ("a@b", None)]
)
def test_a_personal_channel_belongs_to_one_user(name: str, user: str | None) -> None:
    assert personal_user(name) == user
    if user is not None:
        assert personal_channel(user) == name


@bounded
@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40))
def test_the_personal_channel_of_any_user_is_a_name_that_belongs_to_nobody_else(user: str) -> None:
    channel = personal_channel(user)
    assert is_channel_name(channel) is (len(channel) <= limits.PERSONAL_CHANNEL_NAME)
    assert personal_user(channel) == user
    assert namespace_of(channel) is None


@bounded
@given(st.text("ab%7CcE2@:|", max_size=12))
def test_a_personal_channel_has_one_spelling(rest: str) -> None:
    name = f"@{rest}"
    user = personal_user(name)
    if is_channel_name(name) and user is not None:
        assert personal_channel(user) == name


@bounded
@given(strategies.message_ids)
def test_a_message_id_is_parsed_from_its_text(one: MessageId) -> None:
    assert MessageId.parse(str(one)) == one
    assert str(one) == f"{one.offset}-{one.uid}"
    assert len({one, MessageId(one.offset, one.uid)}) == 1
    assert one != MessageId(one.offset, one.uid + "x")


@pytest.mark.parametrize(
    "text", ["", "1", "-", "1-", "-a", "01-a", "00-a", "+1-a", "1-a b", "1-a\n", "1-é", "\u0663-a", "1-a-b"]
)
def test_an_invalid_message_id(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"is no message id: expected '<offset>-<uid>' as a gateway gave it out$"
    ):
        MessageId.parse(text)


def test_an_error_truncates_a_long_text() -> None:
    with pytest.raises(ValueError, match=r"^'x{63} is no message id"):
        MessageId.parse("x" * 100_000)


@pytest.mark.parametrize(
    ("offset", "previous", "follows"),
    [(1, 0, True), (2, 1, True), (1, 1, False), (3, 1, False), (1, 2, False)],
)
def test_a_message_id_follows_the_one_with_the_previous_offset(
    offset: int, previous: int, follows: bool
) -> None:
    assert MessageId(offset, "a").follows(MessageId(previous, "b")) is follows
