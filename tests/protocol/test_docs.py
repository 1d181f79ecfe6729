"""docs/protocol.md agrees with the code: its examples are messages, its tables have the same values."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from protocol import limits
from protocol.codec import CODECS, JSON
from protocol.commands import COMMANDS
from protocol.errors import CLOSE_ON_ERROR, CLOSES, BadRequest, CloseCode, ErrorCode, Reaction
from protocol.server_messages import SERVER_MESSAGES

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```json\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)


def as_command(text: str) -> Any:
    return orjson.loads(JSON.encode_command(JSON.decode(text.encode())))


def as_server_message(text: str) -> Any:
    return orjson.loads(JSON.encode(JSON.decode_server_message(text.encode())))


def kinds(text: str) -> list[str]:
    """Return whether *text* is a command, a server message or both, with every field that it has."""
    found = []
    for name, decode in (("command", as_command), ("server message", as_server_message)):
        try:
            found += [name] if decode(text) == json.loads(text) else []
        except BadRequest:
            continue
    return found


@pytest.mark.parametrize(
    "block", BLOCKS, ids=[f"{index} {json.loads(block)['type']}" for index, block in enumerate(BLOCKS)]
)
def test_an_example_is_a_command_a_reply_or_a_push(block: str) -> None:
    assert kinds(block), block


def test_every_type_has_an_example() -> None:
    examples = {(kind, json.loads(block)["type"]) for block in BLOCKS for kind in kinds(block)}
    assert examples >= {("command", kind) for kind in COMMANDS} | {
        ("server message", kind.type) for kind in SERVER_MESSAGES
    }


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below *heading*, without its header."""
    below = DOCUMENT.split(f"\n## {heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table is not None
    lines = table[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


REACTIONS = {
    Reaction.STOP: "stop;",
    Reaction.STOP_UNTIL_NEW_TOKEN: "stop until there is another token",
    Reaction.REFRESH_TOKEN: "fetch a token, reconnect, resume",
}
BACKOFFS = {
    "told": "after the delay",
    "jitter": "with backoff, resume",
    "long": "with a long backoff, resume",
}


def test_the_documented_close_codes_are_those_of_the_code() -> None:
    documented = {int(code): (name, what) for code, name, what in rows("Close codes")}
    assert set(documented) == set(CLOSES)
    for code, close in CLOSES.items():
        name, what = documented[code]
        assert name == close.reason
        if close.reaction is Reaction.RECONNECT:
            assert what.startswith(f"reconnect {BACKOFFS[close.backoff]}")
        else:
            assert what.startswith(REACTIONS[close.reaction])


def test_the_documented_errors_are_those_of_the_code() -> None:
    documented = {code: close for code, _, _, close in rows("Errors")}
    assert list(documented) == list(ErrorCode)
    assert {code: int(close) for code, close in documented.items() if close} == CLOSE_ON_ERROR


def test_the_documented_limits_are_those_of_the_code() -> None:
    documented = {what: default for what, default, _, _ in rows("Limits")}
    assert documented["data of a publish, as JSON"] == f"{limits.MESSAGE_SIZE // 1024} KiB"
    assert documented["one message from a client"] == f"{limits.ENCODED_SIZE:,} bytes"
    assert documented["levels of arrays and maps in it"] == str(limits.DEPTH)
    assert documented["channels in subs of connect"] == f"{limits.SUBSCRIPTIONS_AT_CONNECT:,}"
    assert documented["messages in a history reply"] == f"{limits.HISTORY_LIMIT:,}"
    assert documented["a token"] == f"{limits.TOKEN_SIZE:,} characters"
    assert documented["a publish's key"] == f"{limits.IDEMPOTENCY_KEY} characters"
    assert documented["a channel's name"].startswith(f"{limits.CHANNEL_NAME} of")
    assert documented["WebSocket frames of fragmented messages a second"] == (
        f"{limits.FRAGMENTS_PER_SECOND:,.0f}, {limits.FRAGMENT_BURST:,.0f} at once"
    )
    assert documented["WebSocket control frames a second"] == (
        f"{limits.CONTROL_FRAMES_PER_SECOND:.0f}, {limits.CONTROL_FRAME_BURST:.0f} at once"
    )
    words = " ".join(DOCUMENT.split())
    assert f"A message from the server may nest {limits.SERVER_MESSAGE_DEPTH}," in words
    assert f"due within {limits.CONNECT_TIMEOUT:.0f} s, else {CloseCode.CONNECT_TIMEOUT}" in words


def test_the_subprotocols_are_documented() -> None:
    assert [row[0] for row in rows("Connecting")] == list(CODECS)
    assert [row[1] for row in rows("Connecting")] == [
        "binary" if codec.binary else "text" for codec in CODECS.values()
    ]


def test_every_link_within_the_document_has_a_target() -> None:
    headings = re.findall(r"^#+ (.*)$", DOCUMENT, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", DOCUMENT)) <= anchors


def test_the_close_code_of_a_protocol_violation_is_documented() -> None:
    words = " ".join(DOCUMENT.split())
    assert f"at once, with {CloseCode.PROTOCOL_VIOLATION}: a command before `connect`" in words
