"""What the log says of those who are refused, and that the documentation has it."""

import re
import time
from pathlib import Path
from typing import Any

import httpx
import orjson

from tests.docs.pages import ROOT, Page
from tests.e2e.clients import Client, RawConnection, upgrade_request
from tests.e2e.gateway import gateway_process, token

ORIGIN = "https://evil.example\x9b31m"
"""With a control character that a header may contain: CSI, which begins the commands of terminals."""
KEY = "a-key-that-nobody-has"
CONFIG = """
[push]
keys = ["a-key-of-this-test"]
[channels.private]
subscribe = "token"
"""
REFUSALS = ("origin refused", "token refused", "push key refused")


async def connect_error(port: int, **fields: str) -> Any:
    """Return the reply to a `connect` with *fields*."""
    with await RawConnection.websocket(port) as raw:
        await raw.send_command(type="connect", id=1, **fields)
        return await raw.receive()


async def test_whoever_is_refused_leaves_a_line_without_secrets(tmp_path: Path) -> None:
    now = time.time()
    valid, expired = token("ann", now=now), token("ann", now=now - 7200)
    forged = valid[:-4] + "AAAA"
    with gateway_process(tmp_path, CONFIG, dev=False, LOG__FORMAT="json") as gateway:
        with await RawConnection.open(gateway.public) as raw:
            await raw.send(upgrade_request(origin=ORIGIN))
            assert (await raw.read_response()).status == 403
        for fields in ({}, {"token": forged}, {"token": expired}):
            assert (await connect_error(gateway.public, **fields))["type"] == "error"
        async with Client.open(gateway.public, token=valid) as client:
            reply = await client.call("subscribe", channel="private:a", token=forged)
            assert reply["code"] == "unauthorized"
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}, trust_env=False) as http:
            assert (await http.get(f"http://127.0.0.1:{gateway.internal}/v1/nodes")).status_code == 401
    log = gateway.stderr
    assert not any(secret in log for secret in (KEY, valid, forged, expired, ORIGIN, "\x9b"))
    lines = [orjson.loads(line) for line in log.splitlines()]
    refused = [line for line in lines if line["event"] in REFUSALS]
    assert [(line["event"], line["level"]) for line in refused] == [
        ("origin refused", "warning"),
        ("token refused", "warning"),
        ("token refused", "warning"),
        ("token refused", "info"),
        ("token refused", "warning"),
        ("push key refused", "warning"),
    ]
    origin, missing, wrong, too_old, channel, key = refused
    assert (origin["origin"], origin["host"]) == ("https://evil.example\\x9b31m", "gateway.test")
    assert origin["address"] == key["address"] == "127.0.0.1"
    assert "a token" in missing["reason"]
    assert "signature" in wrong["reason"]
    assert "signature" in channel["reason"]
    assert "expired" in too_old["reason"]
    documented = events_of_operations()
    for line in refused:
        meaning = documented[line["event"]]
        assert line["level"] in meaning
        assert line["remedy"]
        assert "`remedy`" in meaning
        assert all(f"`{field}`" in meaning for field in line.keys() & {"origin", "host", "address", "reason"})


async def test_a_host_that_is_refused_in_dev_mode_leaves_a_line(tmp_path: Path) -> None:
    with gateway_process(tmp_path, LOG__FORMAT="json") as gateway:
        async with httpx.AsyncClient(headers={"host": "evil.example"}, trust_env=False) as http:
            assert (await http.get(f"http://127.0.0.1:{gateway.internal}/healthz")).status_code == 421
    (line,) = (orjson.loads(text) for text in gateway.stderr.splitlines() if "host refused" in text)
    assert (line["level"], line["host"], line["address"]) == ("warning", "evil.example", "127.0.0.1")
    meaning = events_of_operations()["host refused"]
    assert all(f"`{field}`" in meaning for field in ("host", "address", "remedy"))
    assert line["remedy"]


def events_of_operations() -> dict[str, str]:
    """Return the levels and the meaning of each event in docs/operations.md."""
    return {
        event: f"{level} {meaning}"
        for events, level, meaning in Page(ROOT / "docs" / "operations.md").table("## Logs")
        for event in re.findall("`([^`]+)`", events)
    }
