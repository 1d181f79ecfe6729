"""Make the test vectors in docs/vectors: `python -m tests.protocol.vectors` writes the files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from protocol import limits, server_messages
from protocol.channels import personal_channel
from protocol.client import DEFAULT_BACKOFF
from protocol.codec import JSON, MSGPACK
from protocol.errors import CLOSE_ON_ERROR, CLOSES, OTHER_CLOSE, Backoff, BadRequest, CloseCode
from protocol.messages import ClientMessage, Error, Ping, Publish, Subscribe
from protocol.payload import payload_of
from tests.protocol import client_scenarios, examples
from tests.protocol.bad_frames import BAD_FRAMES, BadFrame
from tests.protocol.webhook_cases import webhook_cases

FOLDER = Path(__file__).parents[2] / "docs" / "vectors"

Case = dict[str, Any]

OTHER_JSON: dict[str, tuple[str, ClientMessage]] = {
    "space between everything": (' { "type" : "ping" ,\r\n\t"id" : 7 } ', Ping(7)),
    "the type last": ('{"id":7,"type":"ping"}', Ping(7)),
    "escaped letters": ('{"\\u0074ype":"pin\\u0067","id":7}', Ping(7)),
    "unknown fields": ('{"type":"ping","id":7,"x":null,"trace":{"a":[1e300]}}', Ping(7)),
    "null for an absent field": (
        '{"type":"subscribe","id":7,"channel":"c","token":null,"since":null,"rewind":null,"members":null}',
        Subscribe(7, "c"),
    ),
    "a key twice: the last counts": ('{"type":"ping","id":6,"id":7}', Ping(7)),
    "an escaped surrogate pair": (
        '{"type":"publish","id":7,"channel":"c","data":"\\ud83d\\ude00"}',
        Publish(7, "c", payload_of("\U0001f600")),
    ),
    "data of 63 levels": (
        f'{{"type":"publish","id":7,"channel":"c","data":{"[" * 63}{"]" * 63}}}',
        Publish(7, "c", payload_of(orjson.loads("[" * 63 + "]" * 63))),
    ),
}

OTHER_MSGPACK: dict[str, tuple[bytes, ClientMessage]] = {
    "a map with a header of 16 bits": (b"\xde\x00\x02\xa4type\xa4ping\xa2id\x07", Ping(7)),
    "strings with headers of 8, 16 and 32 bits": (
        b"\x82\xd9\x04type\xda\x00\x04ping\xdb\x00\x00\x00\x02id\x07",
        Ping(7),
    ),
    "an id of 64 bits with a sign": (b"\x82\xa4type\xa4ping\xa2id\xd3" + (7).to_bytes(8, "big"), Ping(7)),
    "an id of 64 bits without a sign": (b"\x82\xa4type\xa4ping\xa2id\xcf" + (7).to_bytes(8, "big"), Ping(7)),
    "nil for an absent field": (
        b"\x84\xa4type\xa9subscribe\xa2id\x07\xa7channel\xa1c\xa5token\xc0",
        Subscribe(7, "c"),
    ),
    "a float of 32 bits": (
        b"\x84\xa4type\xa7publish\xa2id\x07\xa7channel\xa1c\xa4data\xca\x3f\xc0\x00\x00",
        Publish(7, "c", payload_of(1.5)),
    ),
}


def command_cases() -> list[Case]:
    """Return every example of a command in both encodings, and other encodings that a gateway accepts."""
    from_codecs = [
        _both(name, JSON.encode_command(command), MSGPACK.encode_command(command))
        for name, command in examples.COMMANDS.items()
    ]
    other_json = [
        {"name": name, "map": _map(command), "json": text} for name, (text, command) in OTHER_JSON.items()
    ]
    other_msgpack = [
        {"name": name, "map": _map(command), "msgpack": frame.hex()}
        for name, (frame, command) in OTHER_MSGPACK.items()
    ]
    return from_codecs + other_json + other_msgpack


def server_message_cases() -> list[Case]:
    """Return every example of a reply and a push in both encodings."""
    return [
        _both(name, JSON.encode(message), MSGPACK.encode(message))
        for name, message in examples.SERVER_MESSAGES.items()
    ]


def bad_cases() -> list[Case]:
    """Return every bad frame, with its error or the close code."""
    return [_bad(bad) for bad in BAD_FRAMES]


def close_cases() -> list[Case]:
    """Return what a client does on every close code."""
    return [
        {"code": int(code), "name": row.reason, "client": row.reaction.value, "backoff": row.backoff}
        for code, row in sorted(CLOSES.items())
    ]


OTHER_CODES = {
    1000: "normal closure",
    1001: "going away",
    1005: "no status received",
    1006: "abnormal closure",
    1011: "internal error",
    1012: "service restart",
    4009: "not assigned",
    4999: "not assigned",
}
"""Codes that are not in the table, by their names in RFC 6455 section 7.4.1 and its registry."""

ATTEMPTS = 8
"""How many attempts in a row the bounds of a backoff are listed for; the bound stays the same after that."""


def other_close_cases() -> list[Case]:
    """Return what a client does on close codes that are not in the table."""
    return [
        {"code": code, "name": name, "client": OTHER_CLOSE.reaction.value, "backoff": OTHER_CLOSE.backoff}
        for code, name in OTHER_CODES.items()
    ]


def backoff_cases() -> list[Case]:
    """Return the bounds of every backoff, in seconds, by the number of the attempt."""
    return [
        {"backoff": kind, "bounds": [DEFAULT_BACKOFF.bound(kind, attempt) for attempt in range(ATTEMPTS)]}
        for kind in Backoff
    ]


def error_cases() -> list[Case]:
    """Return the close code that follows each error of a refused `connect`."""
    return [{"code": str(code), "close": int(close)} for code, close in CLOSE_ON_ERROR.items()]


USERS = (
    "anna",
    "a:b@c.de~x_Y-9",
    "@anna",
    "auth0|5f7c",
    "google-oauth2|1",
    "100%",
    "%41",
    "acme/anna",
    "Anna M\u00fcller",
    "\u0410\u043d\u043d\u0430",
    "\u5b89\u5a1c",
    "\U0001f600",
    "a+b&c=d",
    "u" * 128,
    "|" * 128,
)
"""Users, whose personal channels the vectors show."""

BAD_NAMES = {
    "": "empty",
    "a b": "a character that is not allowed",
    "n" * 129: "too long",
    "auth0%7C5f7c": "percent-encoding outside a personal channel",
    "@auth0|5f7c": "not encoded",
    "@auth0%7c5f7c": "lower-case digits",
    "@%61nna": "a letter that needs no encoding",
    "@a%2Db": "a hyphen that needs no encoding",
    "@100%": "half an encoding",
    "@%C3": "half a character of UTF-8",
    "@%C0%AF": "an overlong form of UTF-8",
    "@%ED%A0%80": "a surrogate in UTF-8",
    "@%00": "a control character",
    "@" + "u" * 512: "too long for a personal channel",
    "@" + "%7C" * 171: "too long for a personal channel once encoded",
}
"""Names that no channel has, and why."""


def files() -> dict[str, str]:
    """Return the text of every file, by its name."""
    return {
        "commands.json": _text({"subprotocols": _SUBPROTOCOLS, "commands": command_cases()}),
        "server_messages.json": _text(
            {"subprotocols": _SUBPROTOCOLS, "server_messages": server_message_cases()}
        ),
        "bad.json": _text({"frames": bad_cases()}),
        "channels.json": _text(
            {
                "personal": [{"user": user, "channel": personal_channel(user)} for user in USERS],
                "bad": [{"channel": name, "why": why} for name, why in BAD_NAMES.items()],
            }
        ),
        "closes.json": _text(
            {
                "closes": close_cases(),
                "other_closes": other_close_cases(),
                "backoffs": backoff_cases(),
                "connect_refused": error_cases(),
            }
        ),
        "webhooks.json": _text({"webhooks": webhook_cases()}),
        **{
            f"client/{name}": _text({"scenarios": scenarios})
            for name, scenarios in client_scenarios.FILES.items()
        },
    }


_SUBPROTOCOLS = {"json": JSON.subprotocol, "msgpack": MSGPACK.subprotocol}


def _map(command: ClientMessage) -> Any:
    return orjson.loads(JSON.encode_command(command))


def _both(name: str, text: bytes, packed: bytes) -> Case:
    decoded = orjson.loads(text)
    case = {"name": name, "map": decoded, "json": text.decode(), "msgpack": packed.hex()}
    return {**case, "needs": "64-bit integers"} if _needs_64_bits(decoded) else case


def _needs_64_bits(value: Any) -> bool:
    if isinstance(value, Mapping | list):
        return any(map(_needs_64_bits, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, int) and abs(value) > limits.COMMAND_ID


def _bad(bad: BadFrame) -> Case:
    case: Case = {"name": bad.name, "subprotocol": bad.codec.subprotocol}
    if bad.codec.binary:
        return {**case, "hex": bad.frame.hex(), "error": _error(bad)}
    try:
        return {**case, "text": bad.frame.decode(), "error": _error(bad)}
    except UnicodeDecodeError:
        return {**case, "hex": bad.frame.hex(), "close": int(CloseCode.INVALID_DATA)}


def _error(bad: BadFrame) -> Case:
    try:
        bad.codec.decode(bad.frame)
    except BadRequest as error:
        # The message is for people, and much of it comes from the parsers.
        reply = server_messages.map_of(Error(error.code, error.message, id=error.id))
        return {name: reply[name] for name in reply if name != "message"}
    raise AssertionError(f"{bad.name} is a command")


def _text(content: Case) -> str:
    return json.dumps(content, indent=2) + "\n"


def write() -> None:
    """Write every file."""
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="ascii")


if __name__ == "__main__":
    write()
