"""Every field of every command: which values are accepted or refused, and the message of the error."""

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

NOT_A_STRING: list[Any] = [1, 0, 1.5, True, False, [], ["a"], {}, {"a": "a"}]
NOT_A_COUNT: list[Any] = [-1, 1.0, "1", True, False, 2**53, 2**64 - 1, [], [1], {}]
NOT_A_BOOLEAN: list[Any] = [0, 1, "true", "", [], {}, 1.0]

WRONG: dict[str, list[Any]] = {
    "id": [0, -1, 2**53, 2**63, -(2**63), True, False, 1.0, "1", "", [], [1], {}],
    "channel": [*NOT_A_STRING, "", " ", "a b", "a/b", "ä", "a\n", "\x00", "x" * 129, "*", "a#b"],
    "token": [*NOT_A_STRING, "", "x" * 8193],
    "since": [
        *NOT_A_STRING,
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
    "rewind": NOT_A_COUNT,
    "limit": NOT_A_COUNT,
    "join_leave": NOT_A_BOOLEAN,
    "members": NOT_A_BOOLEAN,
    "reverse": NOT_A_BOOLEAN,
    "key": [*NOT_A_STRING, "", "x" * 129],
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


def decode(codec: Codec, fields: dict[str, Any]) -> ClientMessage:
    return codec.decode(orjson.dumps(fields) if codec is JSON else msgpack.packb(fields))


def error_of(codec: Codec, fields: dict[str, Any]) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        decode(codec, fields)
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
    for kind, (command_class, row) in COMMANDS.items():
        assert command_class.type == kind
        assert [field.name for field in row] == [field.name for field in fields_of(command_class)]
        needed = {field.name: "given" for field in row if field.required}
        bare = command_class(**needed)
        assert [getattr(bare, field.name) for field in row] == [
            "given" if field.required else field.default for field in row
        ]


@codecs
@pytest.mark.parametrize("kind", FULL)
def test_a_command_with_every_field_is_accepted(codec: Codec, kind: str) -> None:
    command = decode(codec, {"type": kind, **FULL[kind]})
    assert command.type == kind
    assert codec.decode(codec.encode_command(command)) == command
    assert all(getattr(command, name) is not None for name in FULL[kind])


@codecs
@pytest.mark.parametrize(("kind", "name"), EVERY_FIELD)
def test_a_wrong_field_is_rejected_by_name(codec: Codec, kind: str, name: str) -> None:
    for wrong in WRONG[name]:
        error = error_of(codec, {"type": kind, **FULL[kind], name: wrong})
        assert error.message.startswith(f"{kind}.{name}: "), wrong
        assert error.id == (None if name == "id" else 1), wrong


@codecs
@pytest.mark.parametrize(("kind", "name"), EVERY_FIELD)
def test_null_stands_for_an_absent_field(codec: Codec, kind: str, name: str) -> None:
    full = {"type": kind, **FULL[kind]}
    absent = {key: value for key, value in full.items() if key != name}
    if name in REQUIRED or kind == "refresh":
        for fields in (absent, {**full, name: None}):
            error = error_of(codec, fields)
            assert error.message == f"{kind}.{name}: is missing"
            assert error.id == (None if name == "id" else 1)
    else:
        assert decode(codec, {**full, name: None}) == decode(codec, absent) != decode(codec, full)


@codecs
def test_null_is_a_value_in_data(codec: Codec) -> None:
    assert decode(codec, {"type": "publish", "id": 1, "channel": "c", "data": None}) == Publish(
        1, "c", payload_of(None)
    )
    assert error_of(codec, {"type": "publish", "id": 1, "channel": "c"}).message == "publish.data: is missing"


@codecs
@pytest.mark.parametrize("kind", FULL)
def test_unknown_fields_are_ignored(codec: Codec, kind: str) -> None:
    command = {"type": kind, **FULL[kind]}
    more = {"": 1, "Type": "x", "types": {"a": [None]}, "code": "x" * 1000, "seconds": 1e300}
    assert decode(codec, {**more, **command}) == decode(codec, {**command, **more}) == decode(codec, command)


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


NOT_OPTIONS = [
    *("t", 1, [], True, {"since": 1}, {"since": "1"}, {"since": {}}, {"token": ""}, {"token": 1}),
    *({"rewind": -1}, {"rewind": "1"}),
]


@codecs
def test_one_invalid_channel_in_connect_does_not_affect_the_others(codec: Codec) -> None:
    subs_sent = {f"c{number}": wrong for number, wrong in enumerate(NOT_OPTIONS)}
    subs_sent |= {"a b": {}, "": {}, "x" * 129: {}, "good": {"rewind": 1}}
    command = decode(codec, {"type": "connect", "id": 1, "subs": subs_sent})
    assert isinstance(command, Connect)
    subs = dict(command.subs)
    assert subs.pop("good") == Resume(rewind=1)
    assert list(subs) == [name for name in subs_sent if name != "good"]
    for each in subs.values():
        assert "expected" in each.fault
        assert len(each.fault) < 300


@codecs
def test_the_error_of_a_channel_in_connect_names_the_option(codec: Codec) -> None:
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


def test_the_name_of_a_channel_must_be_a_string() -> None:
    packed = msgpack.packb({"type": "connect", "id": 1, "subs": {1: {}}})
    with pytest.raises(BadRequest):
        MSGPACK.decode(packed)


@codecs
def test_an_error_is_short_whatever_the_client_sent(codec: Codec) -> None:
    for long in ("x" * 60_000, "\x00" * 10_000):
        for fields in (
            {"type": "subscribe", "id": 1, "channel": long},
            {"type": long, "id": 1},
            {"type": "ping", "id": long},
            {"type": "connect", "id": 1, "client": {"name": long}},
            {"type": "history", "id": 1, "channel": "c", "since": long},
            {"type": "ping", "id": 1, long: orjson.loads("[" * 64 + "]" * 64)},
            {long: orjson.loads("[" * 64 + "]" * 64)},
        ):
            error_of(codec, fields)


@codecs
def test_a_pong_needs_no_id_and_ignores_one(codec: Codec) -> None:
    assert decode(codec, {"type": "pong", "id": "anything"}) == Pong()


@codecs
def test_the_longest_value_of_every_field_is_accepted(codec: Codec) -> None:
    most_subs: dict[str, Any] = {f"c{index}": {} for index in range(limits.SUBSCRIPTIONS_AT_CONNECT)}
    client = {"name": "x" * 128, "version": "x" * 64}
    connect = decode(
        codec, {"type": "connect", "id": 1, "token": "x" * 8192, "client": client, "subs": most_subs}
    )
    assert isinstance(connect, Connect)
    assert len(connect.subs) == 1000
    since = "9" * 16 + "-" + "x" * 32
    subscribe = decode(codec, {"type": "subscribe", "id": 2**53 - 1, "channel": "x" * 128, "since": since})
    assert isinstance(subscribe, Subscribe)
    assert str(subscribe.since) == since


def test_fields_at_their_default_are_not_encoded() -> None:
    assert orjson.loads(JSON.encode_command(Subscribe(1, "c"))) == {
        "type": "subscribe",
        "id": 1,
        "channel": "c",
    }
    assert orjson.loads(JSON.encode_command(Connect(1))) == {"type": "connect", "id": 1}
    assert orjson.loads(JSON.encode_command(Subscribe(1, "c", join_leave=False)))["join_leave"] is False


SECRET = "SECRET" + examples.TOKEN

MISPLACED_TOKENS: dict[str, dict[str, Any]] = {
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
@pytest.mark.parametrize("place", MISPLACED_TOKENS)
def test_no_error_repeats_a_token(codec: Codec, place: str) -> None:
    error = error_of(codec, MISPLACED_TOKENS[place])
    assert "SECRET" not in error.message
    assert "SECRET" not in str(error)
    assert error.__cause__ is None


MISPLACED_TOKENS_IN_OPTIONS = {
    "instead of options": SECRET,
    "in an array of options": [SECRET],
    "in a map in options": {"token": {"jwt": SECRET}},
    "too long": {"token": SECRET * 400},
    "beside a wrong option": {"token": SECRET, "rewind": -1},
}


@codecs
@pytest.mark.parametrize("place", MISPLACED_TOKENS_IN_OPTIONS)
def test_no_error_of_a_channel_in_connect_repeats_a_token(codec: Codec, place: str) -> None:
    command = decode(codec, {"type": "connect", "id": 1, "subs": {"c": MISPLACED_TOKENS_IN_OPTIONS[place]}})
    assert isinstance(command, Connect)
    assert command.subs["c"].fault
    assert "SECRET" not in repr(command)


def test_the_error_of_a_truncated_frame_does_not_repeat_its_token() -> None:
    for codec in CODECS.values():
        frame = codec.encode_command(Connect(1, token=SECRET))
        for end in range(len(frame)):
            with pytest.raises(BadRequest) as caught:
                codec.decode(frame[:end])
            assert "SECRET" not in caught.value.message
