from hypothesis import given
from hypothesis import strategies as st

from gateway.broker.base import Delivery, Publication, UserCommand
from gateway.broker.redis import codec
from protocol.messages import Member, Message, Sender
from protocol.payload import payload_of
from protocol.position import MessageId

texts = st.text(max_size=20)


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts, st.lists),
    st.none() | st.builds(Sender, texts, texts),
    st.none() | st.dictionaries(texts, texts, min_size=1),
    st.frozensets(texts),
    st.integers(0, 2**43),
)
def test_unpack_returns_the_packed_publication(
    data: object, sender: Sender | None, tags: dict[str, str] | None, exclude: frozenset[str], time: int
) -> None:
    payload = payload_of(data)
    publication = Publication("a", payload, sender=sender, tags=tags, exclude=exclude)
    id = MessageId(3, "abc")
    expected = Delivery(Message("a", payload, id, sender, tags, time), exclude)
    assert codec.unpack_delivery("a", id, codec.pack_publication(publication, time)) == expected


def test_a_payload_is_packed_byte_for_byte() -> None:
    payload = payload_of({"text": "ä\n", "n": 1})
    assert codec.pack_publication(Publication("a", payload), 12) == b"12\n" + payload.json


@given(texts, texts, st.none() | st.dictionaries(texts, st.integers(-9, 9)))
def test_unpack_member_returns_the_packed_member(
    connection: str, user: str, info: dict[str, int] | None
) -> None:
    member = Member(connection, user, info)
    assert codec.unpack_member(codec.pack_member(member)) == member


def test_unpack_user_command_returns_the_packed_command() -> None:
    command = UserCommand("ann", "disconnect", "a", 4005, "bye", frozenset({"c1", "c2"}))
    assert codec.unpack_user_command(codec.pack_user_command(command)) == command
