"""The vectors equal what the code does, and a client with only msgpack and a JSON parser can run them."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

import msgpack
import pytest

from protocol.channels import is_channel_name, personal_channel, personal_user
from protocol.codec import CODECS, JSON, MSGPACK
from protocol.errors import BadRequest, CloseCode, Reaction
from protocol.messages import ClientMessage, Push, Reply
from tests.protocol import client_scenarios, vectors


def cases(name: str, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((vectors.FOLDER / name).read_text(encoding="ascii"))[key]
    return found


COMMANDS = cases("commands.json", "commands")
SERVER_MESSAGES = cases("server_messages.json", "server_messages")
BAD_FRAMES = cases("bad.json", "frames")


@pytest.mark.parametrize(("name", "text"), vectors.files().items(), ids=vectors.files())
def test_the_files_equal_what_the_code_writes(name: str, text: str) -> None:
    assert (vectors.FOLDER / name).read_text(encoding="ascii") == text


def test_there_is_no_other_file() -> None:
    found = {str(path.relative_to(vectors.FOLDER)) for path in vectors.FOLDER.rglob("*") if path.is_file()}
    assert found == {"README.md", *vectors.files()}


def test_every_scenario_of_a_client_has_a_name_of_its_own() -> None:
    names = [scenario["name"] for scenarios in client_scenarios.FILES.values() for scenario in scenarios]
    assert len(set(names)) == len(names) >= 120


@pytest.mark.parametrize(
    "found", [COMMANDS, SERVER_MESSAGES, BAD_FRAMES], ids=["commands", "server messages", "bad frames"]
)
def test_names_are_unique(found: list[dict[str, Any]]) -> None:
    assert len({case["name"] for case in found}) == len(found) > 30


@pytest.mark.parametrize("case", COMMANDS, ids=lambda case: case["name"])
def test_a_command_is_decoded_from_each_of_its_encodings(case: dict[str, Any]) -> None:
    expected = JSON.decode(json.dumps(case["map"]).encode())
    assert "json" in case or "msgpack" in case
    if "json" in case:
        assert JSON.decode(case["json"].encode()) == expected
    if "msgpack" in case:
        assert MSGPACK.decode(bytes.fromhex(case["msgpack"])) == expected


@pytest.mark.parametrize("case", SERVER_MESSAGES, ids=lambda case: case["name"])
def test_a_server_message_decodes_to_its_map(case: dict[str, Any]) -> None:
    assert json.loads(case["json"]) == case["map"]
    assert msgpack.unpackb(bytes.fromhex(case["msgpack"])) == case["map"]
    message = JSON.decode_server_message(json.dumps(case["map"]).encode())
    assert JSON.encode(message).decode() == case["json"]
    assert MSGPACK.encode(message).hex() == case["msgpack"]


@pytest.mark.parametrize("case", BAD_FRAMES, ids=lambda case: case["name"])
def test_a_bad_frame_gets_its_error_or_closes_the_connection(case: dict[str, Any]) -> None:
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
    server_messages = {*get_args(Reply), *get_args(Push)}
    assert {case["map"]["type"] for case in SERVER_MESSAGES} == {kind.type for kind in server_messages}
    assert {"close" in case for case in BAD_FRAMES} == {True, False}


def test_the_example_in_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (vectors.FOLDER / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(vectors.FOLDER)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert len(blocks) == 1


@pytest.mark.parametrize("case", cases("channels.json", "personal"), ids=lambda case: case["channel"][:30])
def test_a_user_has_one_personal_channel(case: dict[str, Any]) -> None:
    assert is_channel_name(case["channel"])
    assert personal_user(case["channel"]) == case["user"]
    assert personal_channel(case["user"]) == case["channel"]


@pytest.mark.parametrize("case", cases("channels.json", "bad"), ids=lambda case: case["why"])
def test_no_channel_has_a_bad_name(case: dict[str, Any]) -> None:
    with pytest.raises(
        BadRequest, match=r"subscribe\.channel: expected a (channel name|personal channel) of"
    ):
        JSON.decode(json.dumps({"type": "subscribe", "id": 1, "channel": case["channel"]}).encode())


def test_every_close_code_has_a_reaction() -> None:
    closes = {case["code"]: case for case in cases("closes.json", "closes")}
    assert {case["client"] for case in closes.values()} == set(Reaction)
    assert closes[4006] == {"code": 4006, "name": "slow_consumer", "client": "reconnect", "backoff": "jitter"}
    assert {case["close"] for case in cases("closes.json", "connect_refused")} <= set(closes)


def test_the_page_names_everything_that_a_scenario_needs() -> None:
    text = (vectors.FOLDER / "README.md").read_text()
    needed = {
        need for cases in client_scenarios.FILES.values() for scenario in cases for need in scenario["needs"]
    }
    rows = "".join(re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE))
    assert {need for need in needed if f"`{need}`" not in rows} == set()
