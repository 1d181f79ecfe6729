"""What decides without asking Redis: keys, envelopes, and what to do with each entry of a channel."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.broker.base import Delivery, Publication, UserCommand
from gateway.broker.redis import codec
from gateway.broker.redis.inbox.channel_state import HELD, ChannelState, EntryAction, InboxEntry
from gateway.broker.redis.keys import Keys, shard_of
from gateway.broker.redis.scripts.registry import SCRIPTS
from protocol.messages import Member, Message, Sender
from protocol.payload import payload_of
from protocol.position import MessageId

# ---------------------------------------------------------------- keys and scripts


def test_every_key_of_a_shard_is_in_its_slot() -> None:
    keys = Keys("fanway", 3)
    names = [
        *(
            keys.state,
            keys.nodes,
            keys.node_records,
            keys.beats,
            keys.routed_names,
            keys.meta("a"),
            keys.log("a"),
        ),
        *(keys.route("a"), keys.members("a"), keys.receipt("a", "k"), keys.inbox("n"), keys.node_routes("n")),
        keys.node_members("n"),
    ]
    assert all(name.startswith("fanway:{3}:") for name in names)
    assert len(set(names)) == len(names)


def test_shards_are_by_name_and_the_same_everywhere() -> None:
    assert [shard_of(name, 5) for name in ("a", "room:1", "@ann", "=ann")] == [2, 0, 2, 2]
    used = {shard_of(f"room:{n}", 8) for n in range(100)}
    assert used == set(range(8))


def test_scripts_have_their_own_digests() -> None:
    assert len({script.digest for script in SCRIPTS}) == len(SCRIPTS)


# ---------------------------------------------------------------- envelopes

texts = st.text(max_size=20)


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts, st.lists),
    st.none() | st.builds(Sender, texts, texts),
    st.none() | st.dictionaries(texts, texts, min_size=1),
    st.frozensets(texts),
    st.integers(0, 2**43),
)
def test_an_envelope_is_what_was_put_into_it(
    data: object, sender: Sender | None, tags: dict[str, str] | None, exclude: frozenset[str], time: int
) -> None:
    payload = payload_of(data)
    publication = Publication("a", payload, sender=sender, tags=tags, exclude=exclude)
    id = MessageId(3, "abc")
    expected = Delivery(Message("a", payload, id, sender, tags, time), exclude)
    assert codec.unpack("a", id, codec.pack(publication, time)) == expected


def test_a_payload_crosses_byte_by_byte() -> None:
    payload = payload_of({"text": "ä\n", "n": 1})
    assert codec.pack(Publication("a", payload), 12) == b"12\n" + payload.json


@given(texts, texts, st.none() | st.dictionaries(texts, st.integers(-9, 9)))
def test_a_member_is_who_it_was(connection: str, user: str, info: dict[str, int] | None) -> None:
    member = Member(connection, user, info)
    assert codec.unpack_member(codec.pack_member(member)) == member


def test_an_instruction_is_what_it_was() -> None:
    instruction = UserCommand("ann", "disconnect", "a", 4005, "bye", frozenset({"c1", "c2"}))
    assert codec.unpack_user_command(codec.pack_user_command(instruction)) == instruction


# ---------------------------------------------------------------- one followed channel


def message(offset: int, before: str = "", uid: str = "") -> InboxEntry:
    """The message *offset* of a history whose uids are `u1`, `u2`, …"""
    return InboxEntry(b"m", MessageId(offset, uid or f"u{offset}"), before or f"u{offset - 1}", b"")


def following(offset: int = 0) -> ChannelState:
    followed = ChannelState("a")
    followed.begin("t", numbered=True)
    followed.answered(followed.life, MessageId(offset, f"u{offset}"))
    assert followed.marked("t", MessageId(offset, f"u{offset}")) is EntryAction.DELIVER
    return followed


UNNUMBERED = InboxEntry(b"m", None, "-", b"")


def test_what_comes_before_the_mark_is_older() -> None:
    followed = ChannelState("a")
    followed.begin("t", numbered=True)
    assert followed.take(message(4)) is EntryAction.DROP
    assert followed.marked("another", MessageId(4, "u4")) is EntryAction.DROP
    assert followed.marked("t", MessageId(4, "u4")) is EntryAction.DELIVER
    assert followed.take(message(5)) is EntryAction.DELIVER


def test_what_follows_is_delivered_and_a_hole_is_healed() -> None:
    followed = following()
    assert [followed.take(message(n)) for n in (1, 2)] == [EntryAction.DELIVER] * 2
    assert followed.take(UNNUMBERED) is EntryAction.DELIVER
    assert followed.take(message(4)) is EntryAction.HEAL
    assert followed.take(message(5)) is EntryAction.HOLD
    assert followed.take(UNNUMBERED) is EntryAction.HOLD
    followed.last = MessageId(4, "u4")
    held = followed.release()
    assert [followed.take(entry, healed=True) for entry in held] == [
        EntryAction.DROP,
        EntryAction.DELIVER,
        EntryAction.DELIVER,
    ]


@pytest.mark.parametrize(
    "entry", [message(3, before="other"), message(2, uid="other"), message(1), message(9)]
)
def test_another_history_is_no_continuation(entry: InboxEntry) -> None:
    followed = following(2)
    assert followed.take(entry) is EntryAction.HEAL


def test_a_mark_ahead_of_what_was_heard_is_a_hole() -> None:
    followed = following(2)
    followed.begin_again("t2")
    assert followed.take(message(3)) is EntryAction.DROP
    assert followed.marked("t", MessageId(2, "u2")) is EntryAction.DROP
    assert followed.marked("t2", MessageId(3, "u3")) is EntryAction.HEAL
    assert followed.take(message(4)) is EntryAction.HOLD


def test_who_was_told_a_position_that_was_never_marked_goes_on_from_there() -> None:
    followed = ChannelState("a")
    followed.begin("t", numbered=True)
    followed.answered(followed.life, MessageId(2, "u2"))
    followed.begin_again("t2")
    assert followed.marked("t2", MessageId(4, "u4")) is EntryAction.HEAL
    assert followed.last == MessageId(2, "u2")


def test_a_mark_while_history_is_asked_has_it_asked_once_more() -> None:
    followed = following(2)
    assert followed.take(message(4)) is EntryAction.HEAL
    followed.begin_again("t2")
    assert followed.marked("t2", MessageId(6, "u6")) is EntryAction.DELIVER
    assert followed.overflowed


def test_a_mark_that_overtakes_the_answer_is_where_it_begins() -> None:
    followed = ChannelState("a")
    followed.begin("t", numbered=True)
    followed.begin_again("t2")
    assert followed.marked("t2", MessageId(3, "u3")) is EntryAction.DELIVER
    assert followed.answered(followed.life, MessageId(1, "u1")) == MessageId(3, "u3")


def test_an_answer_that_comes_late_tells_where_it_began() -> None:
    followed = ChannelState("a")
    followed.begin("t", numbered=True)
    assert followed.marked("t", MessageId(1, "u1")) is EntryAction.DELIVER
    assert followed.take(message(2)) is EntryAction.DELIVER
    assert followed.answered(followed.life, MessageId(1, "u1")) == MessageId(1, "u1")
    assert followed.last == MessageId(2, "u2")


def test_what_is_held_is_bounded() -> None:
    followed = following()
    followed.take(message(2))
    for n in range(3, HELD + 5):
        followed.take(message(n))
    assert followed.overflowed
    assert len(followed.release()) == HELD


def test_who_follows_already_misses_nothing_by_another_subscribe() -> None:
    followed = following(2)
    followed.begin("t2", numbered=True)
    assert followed.take(message(3)) is EntryAction.DELIVER
    assert followed.marked("t2", MessageId(3, "u3")) is EntryAction.DELIVER
    assert followed.take(message(4)) is EntryAction.DELIVER


def test_what_nobody_wants_is_dropped() -> None:
    followed = following()
    followed.end()
    assert followed.take(message(1)) is EntryAction.DROP
    assert followed.marked("t", MessageId(1, "u1")) is EntryAction.DROP
    followed.begin("t2", numbered=False)
    assert followed.take(UNNUMBERED) is EntryAction.DROP
    assert followed.marked("t2", None) is EntryAction.DELIVER
    assert followed.take(UNNUMBERED) is EntryAction.DELIVER


def test_entries_of_a_channel_without_history_need_no_order() -> None:
    followed = ChannelState("a")
    followed.begin("t", numbered=False)
    followed.marked("t", None)
    assert followed.take(message(9)) is EntryAction.DELIVER
    followed.begin_again("t2")
    assert followed.missed
