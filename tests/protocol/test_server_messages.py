"""Every field of every reply and push: which values are decoded or refused, and the message of the error."""

from __future__ import annotations

from dataclasses import MISSING
from dataclasses import fields as fields_of
from typing import Any

import msgpack
import orjson
import pytest

from protocol.codec import CODECS, JSON, Codec
from protocol.errors import BadRequest, ErrorCode
from protocol.messages import (
    Connected,
    Error,
    HistoryPage,
    Member,
    Message,
    PresenceState,
    ServerMessage,
    ServerPing,
    Subscribed,
)
from protocol.payload import payload_of
from protocol.server_messages import SERVER_MESSAGES

codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)

CONNECTION_AND_USER = {"connection": "c-1", "user": "anna"}
MESSAGE = {
    "type": "message",
    "channel": "c",
    "message": "1-a",
    "data": 1,
    "from": CONNECTION_AND_USER,
    "tags": {"a": "b"},
    "time": 1,
}
SUBSCRIBED = {
    "type": "subscribed",
    "id": 1,
    "channel": "c",
    "position": "1-a",
    "recovered": True,
    "messages": [MESSAGE],
    "members": [{**CONNECTION_AND_USER, "info": 1}],
    "truncated": True,
    "listed_as": "c-2",
}
ERROR = {"type": "error", "id": 1, "code": "rate_limited", "message": "too fast", "retry_after_ms": 5}

FULL: list[dict[str, Any]] = [
    {
        "type": "connected",
        "id": 1,
        "connection": "c-1",
        "user": "anna",
        "node": "n",
        "heartbeat": 25,
        "expires_in": 60.5,
        "limits": {"message_size": 1},
        "subs": {"c": SUBSCRIBED, "d": ERROR},
    },
    SUBSCRIBED,
    {"type": "unsubscribed", "id": 1, "channel": "c", "code": "token_expired", "reason": "it ended"},
    {"type": "published", "id": 1, "channel": "c", "message": "1-a", "acknowledged": "replicated"},
    {
        "type": "presence",
        "id": 1,
        "channel": "c",
        "connections": 2,
        "users": 1,
        "members": [CONNECTION_AND_USER],
        "truncated": True,
    },
    {"type": "history", "id": 1, "channel": "c", "position": "1-a", "messages": [MESSAGE]},
    {"type": "refreshed", "id": 1, "expires_in": 60},
    {"type": "pong", "id": 1},
    ERROR,
    MESSAGE,
    {"type": "join", "channel": "c", "member": CONNECTION_AND_USER},
    {"type": "leave", "channel": "c", "member": CONNECTION_AND_USER},
    {"type": "gap", "channel": "c", "reason": "trimmed", "position": "1-a"},
    {"type": "ping"},
    {"type": "expiring", "in": 60},
    {"type": "reconnect", "after_ms": 5, "reason": "drain"},
]
"""Every reply and push with every field."""

NOT_A_STRING: list[Any] = [1, True, [], {}]
NOT_A_NUMBER: list[Any] = ["1", True, [], {}]
NOT_A_COUNT: list[Any] = [-1, 1.0, "1", True, [], {}]
NOT_A_MESSAGE_ID: list[Any] = ["1", "01-a", 1, [], {}]
NOT_A_MEMBER: list[Any] = [
    "c-1",
    1,
    [],
    ["c-1", "anna"],
    {},
    {"connection": "c-1"},
    {**CONNECTION_AND_USER, "user": 1},
]
NOT_MESSAGES: list[Any] = [
    "m",
    1,
    {},
    MESSAGE,
    [1],
    ["m"],
    [[]],
    [{}],
    [{"type": "ping"}],
    [{**MESSAGE, "time": "1"}],
]

WRONG: dict[str, list[Any]] = {
    "id": [0, -1, 1.0, True, "1", 2**53, [], {}],
    "channel": NOT_A_STRING,
    "connection": NOT_A_STRING,
    "user": NOT_A_STRING,
    "node": NOT_A_STRING,
    "reason": NOT_A_STRING,
    "acknowledged": NOT_A_STRING,
    "code": [*NOT_A_STRING, "", "no_such_code"],
    "heartbeat": NOT_A_NUMBER,
    "expires_in": NOT_A_NUMBER,
    "in": NOT_A_NUMBER,
    "after_ms": NOT_A_COUNT,
    "retry_after_ms": NOT_A_COUNT,
    "time": NOT_A_COUNT,
    "connections": NOT_A_COUNT,
    "users": NOT_A_COUNT,
    "recovered": [0, 1, "true", [], {}],
    "truncated": [0, 1, "true", [], {}],
    "listed_as": NOT_A_STRING,
    "limits": ["1", 1, True, []],
    "position": NOT_A_MESSAGE_ID,
    "message": NOT_A_MESSAGE_ID,
    "from": NOT_A_MEMBER,
    "member": NOT_A_MEMBER,
    "members": ["m", 1, {}, CONNECTION_AND_USER, [1], [{}], [CONNECTION_AND_USER, {"user": "anna"}]],
    "messages": NOT_MESSAGES,
    "tags": [
        "t",
        1,
        [],
        [["a", "b"]],
        {"a": 1},
        {"a": "x" * 257},
        {"x" * 257: "a"},
        dict.fromkeys(map(str, range(33)), ""),
    ],
    "subs": [
        "c",
        1,
        [],
        [SUBSCRIBED],
        {"c": 1},
        {"c": []},
        {"c": {}},
        {"c": MESSAGE},
        {"c": {**ERROR, "code": 1}},
    ],
}

FIELDS = [(full, name) for full in FULL for name in full if name not in {"type", "data"}]


def name_of(value: Any) -> str:
    return str(value["type"] if isinstance(value, dict) else value)


def decode(codec: Codec, fields: dict[str, Any]) -> ServerMessage:
    return codec.decode_server_message(orjson.dumps(fields) if codec is JSON else msgpack.packb(fields))


def error_of(codec: Codec, fields: dict[str, Any]) -> str:
    with pytest.raises(BadRequest) as caught:
        decode(codec, fields)
    return caught.value.message


def test_the_table_here_names_every_field() -> None:
    named = {full["type"]: set(full) - {"type"} for full in FULL}
    assert named == {kind.type: {wire.name for wire in row} for kind, row in SERVER_MESSAGES.items()}


def test_a_field_is_required_where_the_class_requires_it() -> None:
    for kind, row in SERVER_MESSAGES.items():
        needed = {
            field.name for field in fields_of(kind) if field.default is field.default_factory is MISSING
        }
        assert {wire.attribute for wire in row if wire.required} == needed
        assert {wire.attribute for wire in row} == {field.name for field in fields_of(kind)}


@codecs
@pytest.mark.parametrize("full", FULL, ids=name_of)
def test_a_server_message_is_encoded_as_it_was_decoded(codec: Codec, full: dict[str, Any]) -> None:
    message = decode(codec, full)
    assert orjson.loads(JSON.encode(message)) == full
    assert list(orjson.loads(JSON.encode(message))) == list(full)
    assert codec.decode_server_message(codec.encode(message)) == message


@codecs
@pytest.mark.parametrize(("full", "name"), FIELDS, ids=name_of)
def test_a_wrong_field_is_rejected_by_name(codec: Codec, full: dict[str, Any], name: str) -> None:
    wrong = [*NOT_A_STRING] if name == "message" and full is ERROR else WRONG[name]
    wrong = NOT_A_STRING if name == "code" and full["type"] == "unsubscribed" else wrong
    for value in wrong:
        assert error_of(codec, {**full, name: value}).startswith(f"{full['type']}.{name}: "), value


@codecs
@pytest.mark.parametrize(("full", "name"), FIELDS, ids=name_of)
def test_null_stands_for_an_absent_field(codec: Codec, full: dict[str, Any], name: str) -> None:
    kind = next(kind for kind in SERVER_MESSAGES if kind.type == full["type"])
    required = next(wire.required for wire in SERVER_MESSAGES[kind] if wire.name == name)
    absent = {key: value for key, value in full.items() if key != name}
    if required:
        for fields in (absent, {**full, name: None}):
            assert error_of(codec, fields) == f"{full['type']}.{name}: is missing"
    else:
        assert decode(codec, absent) == decode(codec, {**full, name: None}) != decode(codec, full)


@codecs
def test_null_is_a_value_in_data(codec: Codec) -> None:
    assert decode(codec, {"type": "message", "channel": "c", "data": None}) == Message("c", payload_of(None))
    assert error_of(codec, {"type": "message", "channel": "c"}) == "message.data: is missing"


@codecs
@pytest.mark.parametrize("full", FULL, ids=name_of)
def test_unknown_fields_are_ignored(codec: Codec, full: dict[str, Any]) -> None:
    assert decode(codec, {**full, "": 1, "later": {"a": [None]}}) == decode(codec, full)


@codecs
@pytest.mark.parametrize("kind", [None, "", 1, ["pong"], {"a": 1}, "shout", "connect", "publish", "PONG"])
def test_an_unknown_type_is_rejected(codec: Codec, kind: Any) -> None:
    assert error_of(codec, {"type": kind, "id": 1}).startswith("type: expected one of connected, ")


def test_an_error_names_the_path_to_its_field() -> None:
    wrong = {
        **FULL[0],
        "subs": {"chat:1": {**SUBSCRIBED, "messages": [MESSAGE, {**MESSAGE, "from": {"connection": 1}}]}},
    }
    assert error_of(JSON, wrong) == (
        "connected.subs: chat:1: subscribed.messages: 1: message.from: connection: expected a string, not 1"
    )


def test_a_server_ping_has_no_fields_and_a_pong_has_the_id() -> None:
    assert JSON.encode(ServerPing()) == b'{"type":"ping"}'
    assert error_of(JSON, {"type": "pong"}) == "pong.id: is missing"


def test_fields_that_are_none_are_left_out() -> None:
    assert JSON.encode(HistoryPage(1, "c")) == b'{"type":"history","id":1,"channel":"c","messages":[]}'
    assert JSON.encode(PresenceState(1, "c", 0, 0, ())) == (
        b'{"type":"presence","id":1,"channel":"c","connections":0,"users":0,"members":[]}'
    )
    assert JSON.encode(Subscribed("c", members=[Member("c-1", "", info={})])) == (
        b'{"type":"subscribed","channel":"c","recovered":false,"messages":[],'
        b'"members":[{"connection":"c-1","user":"","info":{}}]}'
    )
    assert JSON.encode(Connected(1, "c-1", "", "n", 25.0)) == (
        b'{"type":"connected","id":1,"connection":"c-1","user":"","node":"n","heartbeat":25.0,"limits":{},"subs":{}}'
    )
    assert JSON.encode(Error(ErrorCode.INTERNAL, "")) == b'{"type":"error","code":"internal","message":""}'


@codecs
def test_payloads_inside_lists_and_maps_are_inserted_as_they_are(codec: Codec) -> None:
    messages = [Message("c", payload_of({"a": [1.5, None]}), tags={"k": "v"}, time=3)]
    inside = Connected(1, "c-1", "", "n", 25, None, {"a": 1.5}, {"c": Subscribed("c", messages=messages)})
    encoded = codec.encode(inside)
    decoded = orjson.loads(encoded) if codec is JSON else msgpack.unpackb(encoded)
    assert decoded["subs"]["c"]["messages"] == [
        {"type": "message", "channel": "c", "data": {"a": [1.5, None]}, "tags": {"k": "v"}, "time": 3}
    ]
