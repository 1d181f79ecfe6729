"""The programs of docs/python.md that say what happens after a restart, and in the log, run as written."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from fanway_client import Fanway

from tests.clients.python.test_gateway import admin, live, public
from tests.docs.pages import ROOT, Page
from tests.e2e.gateway import GatewayProcess

PAGE = Page(ROOT / "docs" / "python.md")


def program(word: str) -> str:
    """Return the one block of Python that has *word*."""
    (text,) = [block.text for block in PAGE.blocks if block.language == "python" and word in block.text]
    return text


async def test_the_program_that_is_restarted(
    gateway: GatewayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handled: asyncio.Queue[Any] = asyncio.Queue()
    text = (
        program("FilePositions")
        .replace("https://rt.example.com", public(gateway))
        .replace('"orders"', '"open:orders"')
    )
    body = "\n".join(f"    {line}" for line in text.splitlines())
    namespace: dict[str, Any] = {"handle": handled.put_nowait, "Fanway": Fanway}
    exec(f"async def main():\n{body}", namespace)
    async with admin(gateway) as backend:
        await backend.publish("open:orders", 0)
        running = asyncio.create_task(namespace["main"]())
        while not (await backend.presence("open:orders"))["connections"]:  # noqa: ASYNC110 (of the gateway)
            await asyncio.sleep(0.01)
        await backend.publish("open:orders", 1)
        assert await handled.get() == 1
        running.cancel()
        await asyncio.wait({running})
        await backend.publish("open:orders", 2)
        running = asyncio.create_task(namespace["main"]())
        assert await handled.get() == 2
        running.cancel()
        await asyncio.wait({running})
    assert handled.empty()


async def test_the_log(gateway: GatewayProcess, caplog: pytest.LogCaptureFixture) -> None:
    try:
        exec(program("setLevel"), {})
        async with Fanway(public(gateway)) as fanway:
            await live_channel(fanway)
    finally:
        logging.getLogger("fanway_client").setLevel(logging.NOTSET)
    assert "'type': 'connect'" in caplog.text


async def live_channel(fanway: Fanway) -> None:
    channel = fanway.channel("open:log")
    channel.on("message", lambda _: None)
    await live(channel)
