"""Every field of every command: what it takes, what it refuses, and what the error says."""

from __future__ import annotations

from dataclasses import fields as fields_of
from typing import Any

import msgpack
import orjson
import pytest

from protocol import limits
from protocol.codec import CODECS, JSON, MSGPACK, Codec
from protocol.commands import COMMANDS
from protocol.errors import BadRequest, ErrorCode
from protocol.messages import ClientMessage, Connect, Ping, Pong, Publish, Resume, Subscribe
from protocol.payload import payload_of
from tests.protocol import examples

codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)

FULL: dict[str, dict[str, Any]] = {
    "connect": {"id": 1, "token": "t", "client": {"name": "acme"}, "subs": {"c": {}}},
    "subscribe": {
        "id": 1,
        "channel": "c",
        "token": "t",
        "since": "1-a",
        "rewind": 1,
        "join_leave": True,
        "members": True,
    },
    "unsubscribe": {"id": 1, "channel": "c"},
    "publish": {"id": 1, "channel": "c", "data": 1, "key": "k"},
    "presence": {"id": 1, "channel": "c", "members": True},
    "history": {"id": 1, "channel": "c", "limit": 1, "since": "1-a", "reverse": True},
    "refresh": {"id": 1, "token": "t"},
    "ping": {"id": 1},
    "pong": {},
}
"""Every command with every field."""

REQUIRED = {"id", "channel", "data"}

NO_STRING: list[Any] = [1, 0, 1.5, True, False, [], ["a"], {}, {"a": "a"}]
NO_COUNT: list[Any] = [-1, 1.0, "1", True, False, 2**53, 2**64 - 1, [], [1], {}]
NO_FLAG: list[Any] = [0, 1, "true", "", [], {}, 1.0]

WRONG: dict[str, list[Any]] = {
    "id": [0, -1, 2**53, 2**63, -(2**63), True, False, 1.0, "1", "", [], [1], {}],
    "channel": [*NO_STRING, "", " ", "a b", "a/b", "ä", "a\n", "\x00", "x" * 129, "*", "a#b"],
    "token": [*NO_STRING, "", "x" * 8193],
    "since": [
        *NO_STRING,
        *(
            "",
            "1",
            "1-",
            "-a",
            "a-1",
            "01-a",
            "+1-a",
            "-1-a",
            "1-a-b",
            "1-ä",
            "1-a\n",
            " 1-a",
            "1 -a",
            "\u0661-a",
        ),
        "12345678901234567-a",
        "1-" + "x" * 33,
    ],
    "rewind": NO_COUNT,
    "limit": NO_COUNT,
    "join_leave": NO_FLAG,
    "members": NO_FLAG,
    "reverse": NO_FLAG,
    "key": [*NO_STRING, "", "x" * 129],
    "client": [
        *("acme", 1, True, [], ["name"], {}, {"version": "1"}, {"name": None}, {"name": ""}, {"name": 1}),
        *({"name": "x" * 129}, {"name": "a", "version": 1}, {"name": "a", "version": ""}),
        {"name": "a", "version": "x" * 65},
    ],
    "subs": [
        *("c", 1, True, [], ["c"]),
        {f"c{index}": {} for index in range(limits.SUBSCRIPTIONS_AT_CONNECT + 1)},
    ],
}


def decode(codec: Codec, spelled: dict[str, Any]) -> ClientMessage:
    return codec.decode(orjson.dumps(spelled) if codec is JSON else msgpack.packb(spelled))


def refusal(codec: Codec, spelled: dict[str, Any]) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        decode(codec, spelled)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert len(caught.value.message) < 300
    return caught.value


EVERY_FIELD = [(kind, name) for kind, full in FULL.items() for name in full if name != "data"]


def test_the_tables_here_name_every_field() -> None:
    assert {kind: set(full) for kind, full in FULL.items()} == {
        kind: {field.name for field in row} for kind, (_, row) in COMMANDS.items()
    }
    assert set(WRONG) == {name for _, name in EVERY_FIELD}


def test_the_table_has_the_order_and_the_defaults_of_the_classes() -> None:
    for kind, (made, row) in COMMANDS.items():
        assert made.type == kind
        assert [field.name for field in row] == [field.name for field in fields_of(made)]
        needed = {field.name: "given" for field in row if field.required}
        bare = made(**needed)
        assert [getattr(bare, field.name) for field in row] == [
            "given" if field.required else field.default for field in row
        ]


@codecs
@pytest.mark.parametrize("kind", FULL)
def test_a_command_with_every_field_is_taken(codec: Codec, kind: str) -> None:
    command = decode(codec, {"type": kind, **FULL[kind]})
    assert command.type == kind
    assert codec.decode(codec.encode_command(command)) == command
    assert all(getattr(command, name) is not None for name in FULL[kind])


@codecs
@pytest.mark.parametrize(("kind", "name"), EVERY_FIELD)
def test_a_wrong_field_is_refused_by_name(codec: Codec, kind: str, name: str) -> None:
    for wrong in WRONG[name]:
        fault = refusal(codec, {"type": kind, **FULL[kind], name: wrong})
        assert fault.message.startswith(f"{kind}.{name}: "), wrong
        assert fault.id == (None if name == "id" else 1), wrong


@codecs
@pytest.mark.parametrize(("kind", "name"), EVERY_FIELD)
def test_null_stands_for_an_absent_field(codec: Codec, kind: str, name: str) -> None:
    full = {"type": kind, **FULL[kind]}
    absent = {key: value for key, value in full.items() if key != name}
    if name in REQUIRED or kind == "refresh":
        for spelled in (absent, {**full, name: None}):
            fault = refusal(codec, spelled)
            assert fault.message == f"{kind}.{name}: is missing"
            assert fault.id == (None if name == "id" else 1)
    else:
        assert decode(codec, {**full, name: None}) == decode(codec, absent) != decode(codec, full)


@codecs
def test_null_is_data(codec: Codec) -> None:
    assert decode(codec, {"type": "publish", "id": 1, "channel": "c", "data": None}) == Publish(
        1, "c", payload_of(None)
    )
    assert refusal(codec, {"type": "publish", "id": 1, "channel": "c"}).message == "publish.data: is missing"


@codecs
@pytest.mark.parametrize("kind", FULL)
def test_unknown_fields_are_ignored(codec: Codec, kind: str) -> None:
    spelled = {"type": kind, **FULL[kind]}
    more = {"": 1, "Type": "x", "types": {"a": [None]}, "code": "x" * 1000, "seconds": 1e300}
    assert decode(codec, {**more, **spelled}) == decode(codec, {**spelled, **more}) == decode(codec, spelled)


def test_of_two_equal_keys_the_last_counts() -> None:
    assert JSON.decode(b'{"type":"pong","id":1,"type":"ping","id":2}') == Ping(2)
    packed = b"\x84" + b"".join(map(msgpack.packb, ("type", "pong", "id", 1, "type", "ping", "id", 2)))
    assert MSGPACK.decode(packed) == Ping(2)


@codecs
def test_options_of_a_restored_channel_may_be_null(codec: Codec) -> None:
    subs = {
        "a": None,
        "b": {},
        "c": {"since": None, "token": None, "rewind": None},
        "d": {"rewind": 0, "x": 1},
    }
    command = decode(codec, {"type": "connect", "id": 1, "subs": subs})
    assert command == Connect(1, subs={"a": Resume(), "b": Resume(), "c": Resume(), "d": Resume(rewind=0)})


NO_RESUME = [
    *("t", 1, [], True, {"since": 1}, {"since": "1"}, {"since": {}}, {"token": ""}, {"token": 1}),
    *({"rewind": -1}, {"rewind": "1"}),
]


@codecs
def test_one_channel_that_cannot_be_read_leaves_the_others_to_be_restored(codec: Codec) -> None:
    spelled = {f"c{number}": wrong for number, wrong in enumerate(NO_RESUME)}
    spelled |= {"a b": {}, "": {}, "x" * 129: {}, "good": {"rewind": 1}}
    command = decode(codec, {"type": "connect", "id": 1, "subs": spelled})
    assert isinstance(command, Connect)
    subs = dict(command.subs)
    assert subs.pop("good") == Resume(rewind=1)
    assert list(subs) == [name for name in spelled if name != "good"]
    for each in subs.values():
        assert "expected" in each.fault
        assert len(each.fault) < 300


@codecs
def test_what_is_wrong_with_a_channel_says_which_option_it_is(codec: Codec) -> None:
    command = decode(codec, {"type": "connect", "id": 1, "subs": {"c": {"since": 5}, "d e": {}}})
    assert command == Connect(
        1,
        subs={
            "c": Resume(fault="since: expected a message id, not 5"),
            "d e": Resume(
                fault="expected a channel name of 1 to 128 characters A-Z a-z 0-9 _ . : @ ~ -, not 'd e'"
            ),
        },
    )


def test_channels_are_named_by_strings() -> None:
    packed = msgpack.packb({"type": "connect", "id": 1, "subs": {1: {}}})
    with pytest.raises(BadRequest):
        MSGPACK.decode(packed)


@codecs
def test_an_error_stays_short_whatever_the_client_sent(codec: Codec) -> None:
    for long in ("x" * 60_000, "\x00" * 10_000):
        for spelled in (
            {"type": "subscribe", "id": 1, "channel": long},
            {"type": long, "id": 1},
            {"type": "ping", "id": long},
            {"type": "connect", "id": 1, "client": {"name": long}},
            {"type": "history", "id": 1, "channel": "c", "since": long},
            {"type": "ping", "id": 1, long: orjson.loads("[" * 64 + "]" * 64)},
            {long: orjson.loads("[" * 64 + "]" * 64)},
        ):
            refusal(codec, spelled)


@codecs
def test_a_pong_needs_no_id_and_heeds_none(codec: Codec) -> None:
    assert decode(codec, {"type": "pong", "id": "anything"}) == Pong()


@codecs
def test_the_longest_of_everything_is_taken(codec: Codec) -> None:
    every: dict[str, Any] = {f"c{index}": {} for index in range(limits.SUBSCRIPTIONS_AT_CONNECT)}
    client = {"name": "x" * 128, "version": "x" * 64}
    connect = decode(
        codec, {"type": "connect", "id": 1, "token": "x" * 8192, "client": client, "subs": every}
    )
    assert isinstance(connect, Connect)
    assert len(connect.subs) == 1000
    since = "9" * 16 + "-" + "x" * 32
    subscribe = decode(codec, {"type": "subscribe", "id": 2**53 - 1, "channel": "x" * 128, "since": since})
    assert isinstance(subscribe, Subscribe)
    assert str(subscribe.since) == since


def test_a_command_without_defaults_is_spelled_without_them() -> None:
    assert orjson.loads(JSON.encode_command(Subscribe(1, "c"))) == {
        "type": "subscribe",
        "id": 1,
        "channel": "c",
    }
    assert orjson.loads(JSON.encode_command(Connect(1))) == {"type": "connect", "id": 1}
    assert orjson.loads(JSON.encode_command(Subscribe(1, "c", join_leave=False)))["join_leave"] is False


SECRET = "SECRET" + examples.TOKEN

SPILLED: dict[str, dict[str, Any]] = {
    "too long": {"type": "refresh", "id": 1, "token": SECRET * 400},
    "in an array": {"type": "refresh", "id": 1, "token": [SECRET]},
    "in a map": {"type": "subscribe", "id": 1, "channel": "c", "token": {"token": SECRET}},
    "instead of subs": {"type": "connect", "id": 1, "subs": SECRET},
    "in an array of subs": {"type": "connect", "id": 1, "subs": [{"token": SECRET}]},
    "in client": {"type": "connect", "id": 1, "client": {"token": SECRET}},
    "in an array as client": {"type": "connect", "id": 1, "client": [SECRET]},
    "in a map as channel": {"type": "subscribe", "id": 1, "channel": {"token": SECRET}},
    "in a map as id": {"type": "refresh", "id": {"token": SECRET}, "token": SECRET},
    "in a map as type": {"type": {"token": SECRET}, "id": 1},
    "of an unknown type": {"type": "login", "id": 1, "token": SECRET},
}


@codecs
@pytest.mark.parametrize("place", SPILLED)
def test_no_error_repeats_a_token(codec: Codec, place: str) -> None:
    fault = refusal(codec, SPILLED[place])
    assert "SECRET" not in fault.message
    assert "SECRET" not in str(fault)
    assert fault.__cause__ is None


SPILLED_OPTIONS = {
    "instead of options": SECRET,
    "in an array of options": [SECRET],
    "in a map in options": {"token": {"jwt": SECRET}},
    "too long": {"token": SECRET * 400},
    "beside a wrong option": {"token": SECRET, "rewind": -1},
}


@codecs
@pytest.mark.parametrize("place", SPILLED_OPTIONS)
def test_no_error_of_a_restored_channel_repeats_a_token(codec: Codec, place: str) -> None:
    command = decode(codec, {"type": "connect", "id": 1, "subs": {"c": SPILLED_OPTIONS[place]}})
    assert isinstance(command, Connect)
    assert command.subs["c"].fault
    assert "SECRET" not in repr(command)


def test_a_frame_with_a_token_that_is_cut_short_does_not_repeat_it() -> None:
    for codec in CODECS.values():
        frame = codec.encode_command(Connect(1, token=SECRET))
        for end in range(len(frame)):
            with pytest.raises(BadRequest) as caught:
                codec.decode(frame[:end])
            assert "SECRET" not in caught.value.message
