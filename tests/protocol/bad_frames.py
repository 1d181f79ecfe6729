"""Frames that are not commands, by name; the vectors consist of them, and a gateway must refuse them."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from protocol.codec import JSON, MSGPACK, Codec


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A frame that is not a command."""

    name: str
    codec: Codec
    frame: bytes
    error_part: str
    """Is in the message of the error."""
    id: int | None = None
    """That of the command, where it can be read."""


def _json(name: str, frame: str | bytes, error_part: str, *, id: int | None = None) -> BadFrame:
    return BadFrame(name, JSON, frame.encode() if isinstance(frame, str) else frame, error_part, id)


def _msgpack(name: str, frame: bytes, error_part: str, *, id: int | None = None) -> BadFrame:
    return BadFrame(name, MSGPACK, frame, error_part, id)


def _publish(data: bytes) -> bytes:
    """Return a publish with id 7 whose data is the MessagePack *data*."""
    head = {"type": "publish", "id": 7, "channel": "c"}
    return b"\x84" + bytes(msgpack.packb(head)[1:]) + b"\xa4data" + data


_PING = b'{"type":"ping","id":7}'
_PUBLISH = '{"type":"publish","id":7,"channel":"c","data":%s}'

BROKEN_JSON = [
    _json("nothing", "", "no JSON"),
    _json("only space", " \n", "no JSON"),
    _json("half a map", '{"type":"ping","id":', "no JSON"),
    _json("two maps", _PING + _PING, "no JSON"),
    _json("something behind the map", _PING + b"x", "no JSON"),
    _json("a byte order mark", b"\xef\xbb\xbf" + _PING, "no JSON"),
    _json("UTF-16", _PING.decode().encode("utf-16-le"), "no JSON"),
    _json("single quotes", "{'type':'ping','id':7}", "no JSON"),
    _json("a comma too many", '{"type":"ping","id":7,}', "no JSON"),
    _json("a comment", '{"type":"ping",/* */"id":7}', "no JSON"),
    _json("a bare word", "ping", "no JSON"),
    _json("a raw line feed in a string", '{"type":"ping\n","id":7}', "no JSON"),
    _json("a leading zero", '{"type":"ping","id":07}', "no JSON"),
    _json("NaN", _PUBLISH % "NaN", "no JSON"),
    _json("Infinity", _PUBLISH % "-Infinity", "no JSON"),
    _json("a float beyond all floats", _PUBLISH % "1e999", "no JSON"),
    _json("a lone leading surrogate", _PUBLISH % '"\\ud800"', "no JSON"),
    _json("a lone trailing surrogate", _PUBLISH % '"\\udc00"', "no JSON"),
    _json("a surrogate in bytes", (_PUBLISH % '"?"').encode().replace(b"?", b"\xed\xa0\x80"), "no JSON"),
    _json("a byte that is no UTF-8", (_PUBLISH % '"?"').encode().replace(b"?", b"\xff"), "no JSON"),
    _json("half a UTF-8 character", (_PUBLISH % '"?"').encode().replace(b"?", b"\xc3"), "no JSON"),
    _json("an overlong UTF-8 character", (_PUBLISH % '"?"').encode().replace(b"?", b"\xc0\xaf"), "no JSON"),
]

NO_MAP = [
    _json(f"{name} instead of a map", text, f"expected a map with a type, not {kind}")
    for name, text, kind in (
        ("null", "null", "NoneType"),
        ("a number", "7", "int"),
        ("a string", '"ping"', "str"),
        ("an array", '[{"type":"ping","id":7}]', "list"),
    )
] + [
    _msgpack("an array instead of a map in MessagePack", b"\x91\x80", "expected a map with a type, not list"),
    _msgpack("nil instead of a map", b"\xc0", "expected a map with a type, not NoneType"),
]

WRONG_TYPE = [
    _json("no type", '{"id":7}', "type: expected one of connect, ", id=7),
    _json("an unknown type", '{"type":"shout","id":7}', "not 'shout'", id=7),
    _json("a type in capitals", '{"type":"PING","id":7}', "not 'PING'", id=7),
    _json("a reply's type", '{"type":"subscribed","id":7}', "not 'subscribed'", id=7),
    _json("null as type", '{"type":null,"id":7}', "not None", id=7),
    _json("a number as type", '{"type":1,"id":7}', "not 1", id=7),
    _json("an array as type", '{"type":["ping"],"id":7}', "not an array", id=7),
    _json("no type and no id", "{}", "type: expected one of connect, "),
    _msgpack("no type in MessagePack", msgpack.packb({"id": 7}), "type: expected one of connect, ", id=7),
]

WRONG_ID = [
    _json(f"{name} as id", f'{{"type":"ping","id":{text}}}', error_part)
    for name, text, error_part in (
        ("zero", "0", "ping.id: expected an integer from 1 to 2^53-1, not 0"),
        ("a negative number", "-1", "not -1"),
        ("2^53", "9007199254740992", "not 9007199254740992"),
        ("an integer beyond 64 bits", "18446744073709551616", "not 1.8446744073709552e+19"),
        ("true", "true", "not True"),
        ("a float", "1.0", "not 1.0"),
        ("a string", '"1"', "not '1'"),
        ("an array", "[1]", "not an array"),
        ("null", "null", "ping.id: is missing"),
    )
] + [
    _json("no id", '{"type":"ping"}', "ping.id: is missing"),
    _msgpack("true as id in MessagePack", msgpack.packb({"type": "ping", "id": True}), "ping.id: "),
    _msgpack("a float as id in MessagePack", msgpack.packb({"type": "ping", "id": 1.0}), "ping.id: "),
    _json("the second of two ids counts", '{"type":"ping","id":7,"id":0}', "ping.id: "),
]

TOO_DEEP = [
    _json("data of 64 levels", _PUBLISH % ("[" * 64 + "]" * 64), "publish.data: nested deeper", id=7),
    _json(
        "an unknown field of 64 levels",
        '{"type":"ping","id":7,"x":' + '{"a":' * 63 + "[]" + "}" * 63 + "}",
        "ping.x: nested deeper",
        id=7,
    ),
    _json("2,000 levels", "[" * 2000 + "]" * 2000, "no JSON"),
    _msgpack(
        "data of 64 levels in MessagePack", _publish(b"\x91" * 63 + b"\x90"), "publish.data: nested", id=7
    ),
    _msgpack("2,000 levels in MessagePack", b"\x91" * 1999 + b"\x90", "no MessagePack"),
]

INTEGERS = [
    _json(f"{name} as data", _PUBLISH % text, f"publish.data: {error_part} does not fit 64 bits", id=7)
    for name, text, error_part in (
        ("2^64", "18446744073709551616", "18446744073709551616"),
        ("-2^63-1", "-9223372036854775809", "-9223372036854775809"),
        ("2^64 deep inside", '{"a":[{"b":18446744073709551616}]}', "18446744073709551616"),
        ("300 digits", "9" * 300, "999999999999999999999999…"),
    )
]

BROKEN_MSGPACK = [
    _msgpack("nothing in MessagePack", b"", "no MessagePack"),
    _msgpack("half a map in MessagePack", msgpack.packb({"type": "ping", "id": 7})[:-1], "no MessagePack"),
    _msgpack("two maps in MessagePack", msgpack.packb({"type": "ping", "id": 7}) * 2, "no MessagePack"),
    _msgpack("JSON in a binary frame", _PING, "no MessagePack"),
    _msgpack("the byte that is never used", b"\xc1", "no MessagePack"),
    _msgpack("an integer as key", msgpack.packb({"type": "ping", "id": 7, 1: 1}), "no MessagePack"),
    _msgpack("a map as key", b"\x81\x80\xc0", "no MessagePack"),
    _msgpack("a string that is no UTF-8", _publish(b"\xa1\xff"), "no MessagePack"),
    _msgpack("a surrogate in a string", _publish(b"\xa3\xed\xa0\x80"), "no MessagePack"),
    _msgpack("a string of 4 GB, announced", _publish(b"\xdb\xff\xff\xff\xff"), "no MessagePack"),
    _msgpack("bytes of 4 GB, announced", _publish(b"\xc6\xff\xff\xff\xff"), "no MessagePack"),
    _msgpack("an array of 4 G items, announced", _publish(b"\xdd\xff\xff\xff\xff"), "no MessagePack"),
    _msgpack("a map of 4 G items, announced", _publish(b"\xdf\xff\xff\xff\xff"), "no MessagePack"),
    _msgpack("an extension of 4 GB, announced", _publish(b"\xc9\xff\xff\xff\xff\x01"), "no MessagePack"),
]

BEYOND_JSON = [
    _msgpack(name, _publish(data), f"publish.data: {error_part}", id=7)
    for name, data, error_part in (
        ("bytes as data", msgpack.packb(b"raw"), "binary data cannot be encoded as JSON"),
        ("bytes deep inside", msgpack.packb({"a": [{"b": b"raw"}]}), "binary data cannot be encoded"),
        ("an extension type", msgpack.packb(msgpack.ExtType(5, b"x")), "an extension type cannot be encoded"),
        (
            "an extension type inside",
            msgpack.packb([msgpack.ExtType(5, b"x")]),
            "an extension type cannot be encoded",
        ),
        ("a timestamp", msgpack.packb(msgpack.Timestamp(1)), "a timestamp cannot be encoded"),
        (
            "a timestamp of 96 bits",
            msgpack.packb(msgpack.Timestamp(2**40, 1)),
            "a timestamp cannot be encoded",
        ),
        ("NaN in MessagePack", msgpack.packb(float("nan")), "nan is not a JSON number"),
        ("Infinity in MessagePack", msgpack.packb([float("inf")]), "inf is not a JSON number"),
        ("minus Infinity of 32 bits", b"\xca\xff\x80\x00\x00", "-inf is not a JSON number"),
        ("bytes as key", msgpack.packb({"a": {b"b": 1}}), "a map key is a bytes; keys must be strings"),
    )
] + [
    _msgpack(
        "bytes in an unknown field",
        msgpack.packb({"type": "ping", "id": 7, "x": b"raw"}),
        "ping.x: binary data cannot be encoded as JSON",
        id=7,
    ),
    _msgpack(
        "bytes as a field's name",
        msgpack.packb({"type": "ping", "id": 7, b"x": 1}),
        "ping.keys: a map key",
        id=7,
    ),
    _msgpack(
        "a map without a type that holds bytes",
        msgpack.packb({"x": b"raw"}),
        "x: binary data cannot be encoded",
    ),
]

BAD_FRAMES: list[BadFrame] = [
    *BROKEN_JSON,
    *NO_MAP,
    *WRONG_TYPE,
    *WRONG_ID,
    *TOO_DEEP,
    *INTEGERS,
    *BROKEN_MSGPACK,
    *BEYOND_JSON,
]
