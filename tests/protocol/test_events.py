"""What a client reads: every field of every reply and push, and what it is told where one is wrong."""

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

WHO = {"connection": "c-1", "user": "anna"}
MESSAGE = {
    "type": "message",
    "channel": "c",
    "message": "1-a",
    "data": 1,
    "from": WHO,
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
    "members": [{**WHO, "info": 1}],
    "truncated": True,
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
        "members": [WHO],
        "truncated": True,
    },
    {"type": "history", "id": 1, "channel": "c", "position": "1-a", "messages": [MESSAGE]},
    {"type": "refreshed", "id": 1, "expires_in": 60},
    {"type": "pong", "id": 1},
    ERROR,
    MESSAGE,
    {"type": "join", "channel": "c", "member": WHO},
    {"type": "leave", "channel": "c", "member": WHO},
    {"type": "gap", "channel": "c", "reason": "trimmed", "position": "1-a"},
    {"type": "ping"},
    {"type": "expiring", "in": 60},
    {"type": "reconnect", "after_ms": 5, "reason": "drain"},
]
"""Every reply and push with every field."""

NO_STRING: list[Any] = [1, True, [], {}]
NO_NUMBER: list[Any] = ["1", True, [], {}]
NO_COUNT: list[Any] = [-1, 1.0, "1", True, [], {}]
NO_ID: list[Any] = ["1", "01-a", 1, [], {}]
NO_WHO: list[Any] = ["c-1", 1, [], ["c-1", "anna"], {}, {"connection": "c-1"}, {**WHO, "user": 1}]
NO_MESSAGES: list[Any] = [
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
    "channel": NO_STRING,
    "connection": NO_STRING,
    "user": NO_STRING,
    "node": NO_STRING,
    "reason": NO_STRING,
    "acknowledged": NO_STRING,
    "code": [*NO_STRING, "", "no_such_code"],
    "heartbeat": NO_NUMBER,
    "expires_in": NO_NUMBER,
    "in": NO_NUMBER,
    "after_ms": NO_COUNT,
    "retry_after_ms": NO_COUNT,
    "time": NO_COUNT,
    "connections": NO_COUNT,
    "users": NO_COUNT,
    "recovered": [0, 1, "true", [], {}],
    "truncated": [0, 1, "true", [], {}],
    "limits": ["1", 1, True, []],
    "position": NO_ID,
    "message": NO_ID,
    "from": NO_WHO,
    "member": NO_WHO,
    "members": ["m", 1, {}, WHO, [1], [{}], [WHO, {"user": "anna"}]],
    "messages": NO_MESSAGES,
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


def read(codec: Codec, spelled: dict[str, Any]) -> ServerMessage:
    return codec.decode_server_message(orjson.dumps(spelled) if codec is JSON else msgpack.packb(spelled))


def refusal(codec: Codec, spelled: dict[str, Any]) -> str:
    with pytest.raises(BadRequest) as caught:
        read(codec, spelled)
    return caught.value.message


def test_the_table_here_names_every_field() -> None:
    named = {full["type"]: set(full) - {"type"} for full in FULL}
    assert named == {kind.type: {wire.name for wire in row} for kind, row in SERVER_MESSAGES.items()}


def test_what_is_required_is_what_the_class_requires() -> None:
    for kind, row in SERVER_MESSAGES.items():
        needed = {
            field.name for field in fields_of(kind) if field.default is field.default_factory is MISSING
        }
        assert {wire.attribute for wire in row if wire.required} == needed
        assert {wire.attribute for wire in row} == {field.name for field in fields_of(kind)}


@codecs
@pytest.mark.parametrize("full", FULL, ids=name_of)
def test_an_event_is_spelled_as_it_was_read(codec: Codec, full: dict[str, Any]) -> None:
    event = read(codec, full)
    assert orjson.loads(JSON.encode(event)) == full
    assert list(orjson.loads(JSON.encode(event))) == list(full)
    assert codec.decode_server_message(codec.encode(event)) == event


@codecs
@pytest.mark.parametrize(("full", "name"), FIELDS, ids=name_of)
def test_a_wrong_field_is_refused_by_name(codec: Codec, full: dict[str, Any], name: str) -> None:
    wrong = [*NO_STRING] if name == "message" and full is ERROR else WRONG[name]
    wrong = NO_STRING if name == "code" and full["type"] == "unsubscribed" else wrong
    for value in wrong:
        assert refusal(codec, {**full, name: value}).startswith(f"{full['type']}.{name}: "), value


@codecs
@pytest.mark.parametrize(("full", "name"), FIELDS, ids=name_of)
def test_null_stands_for_an_absent_field(codec: Codec, full: dict[str, Any], name: str) -> None:
    kind = next(kind for kind in SERVER_MESSAGES if kind.type == full["type"])
    required = next(wire.required for wire in SERVER_MESSAGES[kind] if wire.name == name)
    absent = {key: value for key, value in full.items() if key != name}
    if required:
        for spelled in (absent, {**full, name: None}):
            assert refusal(codec, spelled) == f"{full['type']}.{name}: is missing"
    else:
        assert read(codec, absent) == read(codec, {**full, name: None}) != read(codec, full)


@codecs
def test_null_is_data(codec: Codec) -> None:
    assert read(codec, {"type": "message", "channel": "c", "data": None}) == Message("c", payload_of(None))
    assert refusal(codec, {"type": "message", "channel": "c"}) == "message.data: is missing"


@codecs
@pytest.mark.parametrize("full", FULL, ids=name_of)
def test_unknown_fields_are_ignored(codec: Codec, full: dict[str, Any]) -> None:
    assert read(codec, {**full, "": 1, "later": {"a": [None]}}) == read(codec, full)


@codecs
@pytest.mark.parametrize("kind", [None, "", 1, ["pong"], {"a": 1}, "shout", "connect", "publish", "PONG"])
def test_an_unknown_type_is_refused(codec: Codec, kind: Any) -> None:
    assert refusal(codec, {"type": kind, "id": 1}).startswith("type: expected one of connected, ")


def test_errors_inside_are_found_by_their_path() -> None:
    wrong = {
        **FULL[0],
        "subs": {"chat:1": {**SUBSCRIBED, "messages": [MESSAGE, {**MESSAGE, "from": {"connection": 1}}]}},
    }
    assert refusal(JSON, wrong) == (
        "connected.subs: chat:1: subscribed.messages: 1: message.from: connection: expected a string, not 1"
    )


def test_a_server_ping_has_nothing_and_a_pong_has_the_id() -> None:
    assert JSON.encode(ServerPing()) == b'{"type":"ping"}'
    assert refusal(JSON, {"type": "pong"}) == "pong.id: is missing"


def test_absent_is_what_is_none() -> None:
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
def test_payloads_inside_lists_and_maps_of_any_kind_are_spliced(codec: Codec) -> None:
    messages = [Message("c", payload_of({"a": [1.5, None]}), tags={"k": "v"}, time=3)]
    inside = Connected(1, "c-1", "", "n", 25, None, {"a": 1.5}, {"c": Subscribed("c", messages=messages)})
    spelled = codec.encode(inside)
    decoded = orjson.loads(spelled) if codec is JSON else msgpack.unpackb(spelled)
    assert decoded["subs"]["c"]["messages"] == [
        {"type": "message", "channel": "c", "data": {"a": [1.5, None]}, "tags": {"k": "v"}, "time": 3}
    ]
