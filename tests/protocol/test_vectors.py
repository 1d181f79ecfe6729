"""The vectors say what the code does, and a client that knows only msgpack and a JSON parser can run them."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

import msgpack
import pytest

from protocol.codec import CODECS, JSON, MSGPACK
from protocol.errors import BadRequest, CloseCode, Reaction
from protocol.messages import ClientMessage, Push, Reply
from tests.protocol import vectors


def cases(name: str, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((vectors.FOLDER / name).read_text(encoding="ascii"))[key]
    return found


COMMANDS = cases("commands.json", "commands")
EVENTS = cases("events.json", "events")
BAD = cases("bad.json", "frames")


@pytest.mark.parametrize(("name", "text"), vectors.files().items(), ids=vectors.files())
def test_the_files_are_what_the_code_writes_now(name: str, text: str) -> None:
    assert (vectors.FOLDER / name).read_text(encoding="ascii") == text


def test_no_file_is_left_over() -> None:
    assert {path.name for path in vectors.FOLDER.iterdir()} == {"README.md", *vectors.files()}


@pytest.mark.parametrize("found", [COMMANDS, EVENTS, BAD], ids=["commands", "events", "bad"])
def test_names_are_unique(found: list[dict[str, Any]]) -> None:
    assert len({case["name"] for case in found}) == len(found) > 30


@pytest.mark.parametrize("case", COMMANDS, ids=lambda case: case["name"])
def test_a_command_is_understood(case: dict[str, Any]) -> None:
    understood = JSON.decode(json.dumps(case["map"]).encode())
    assert "json" in case or "msgpack" in case
    if "json" in case:
        assert JSON.decode(case["json"].encode()) == understood
    if "msgpack" in case:
        assert MSGPACK.decode(bytes.fromhex(case["msgpack"])) == understood


@pytest.mark.parametrize("case", EVENTS, ids=lambda case: case["name"])
def test_an_event_means_its_map(case: dict[str, Any]) -> None:
    assert json.loads(case["json"]) == case["map"]
    assert msgpack.unpackb(bytes.fromhex(case["msgpack"])) == case["map"]
    event = JSON.decode_server_message(json.dumps(case["map"]).encode())
    assert JSON.encode(event).decode() == case["json"]
    assert MSGPACK.encode(event).hex() == case["msgpack"]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case["name"])
def test_a_bad_frame_gets_its_error_or_ends_the_connection(case: dict[str, Any]) -> None:
    codec = CODECS[case["subprotocol"]]
    frame = case["text"].encode() if "text" in case else bytes.fromhex(case["hex"])
    with pytest.raises(BadRequest) as caught:
        codec.decode(frame)
    if "close" in case:
        assert case["close"] == CloseCode.INVALID_DATA
        with pytest.raises(UnicodeDecodeError):
            frame.decode()
    else:
        assert case["error"]["code"] == "bad_request"
        assert case["error"].get("id") == caught.value.id


def test_every_type_and_both_outcomes_occur() -> None:
    assert {case["map"]["type"] for case in COMMANDS} == {kind.type for kind in get_args(ClientMessage)}
    said = {*get_args(Reply), *get_args(Push)}
    assert {case["map"]["type"] for case in EVENTS} == {kind.type for kind in said}
    assert {"close" in case for case in BAD} == {True, False}


def test_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (vectors.FOLDER / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(vectors.FOLDER)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert len(blocks) == 1


def test_the_close_codes_name_what_a_client_does() -> None:
    closes = {case["code"]: case for case in cases("closes.json", "closes")}
    assert {case["client"] for case in closes.values()} == set(Reaction)
    assert closes[4006] == {"code": 4006, "name": "slow_consumer", "client": "reconnect", "backoff": "jitter"}
    assert {case["close"] for case in cases("closes.json", "connect_refused")} <= set(closes)
