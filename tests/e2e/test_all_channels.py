"""With the default limits, a client subscribes at once to as many channels as it may have."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.settings import Settings
from gateway.settings.setting_warnings import longest_connect
from protocol.commands import map_of
from tests.e2e.clients import Client
from tests.e2e.gateway import TIMEOUT_SECONDS, gateway_on_loop, token

CHANNELS = Settings().limits.channels_per_connection
TABS = 10
CONFIG = """
[channels.private]
subscribe = "token"
"""


async def test_a_subscribe_to_every_channel_may_be_sent_at_once(tmp_path: Path) -> None:
    async with gateway_on_loop(tmp_path) as gateway, Client.open(gateway.public) as client:
        commands = [{"type": "subscribe", "id": 10 + n, "channel": f"c{n}"} for n in range(CHANNELS)]
        for command in commands:
            await client.send(command)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            replies = [await client.next_push("subscribed") for _ in range(CHANNELS)]
        assert [reply["id"] for reply in replies] == [command["id"] for command in commands]


async def test_a_connect_resumes_every_channel_with_the_longest_names(tmp_path: Path) -> None:
    command = map_of(replace(longest_connect(Settings()), token=None))
    async with (
        gateway_on_loop(tmp_path) as gateway,
        Client.open(gateway.public, subs=command["subs"]) as client,
    ):
        subs = client.connected["subs"]
        assert len(subs) == CHANNELS
        assert {each["type"] for each in subs.values()} == {"subscribed"}


async def test_all_tabs_of_a_user_resume_every_channel_at_once(tmp_path: Path) -> None:
    now = time.time()
    tokens = {f"private:{n}": token("ann", now=now, channel=f"private:{n}") for n in range(CHANNELS - 1)}
    subs = {channel: {"token": each} for channel, each in tokens.items()}
    connect: dict[str, Any] = {"token": token("ann", now=now), "subs": subs}
    async with gateway_on_loop(tmp_path, CONFIG) as gateway, AsyncExitStack() as stack:
        tabs = await asyncio.gather(
            *(stack.enter_async_context(Client.open(gateway.public, **connect)) for _ in range(TABS))
        )
        for tab in tabs:
            assert {each["type"] for each in tab.connected["subs"].values()} == {"subscribed"}
            assert (await tab.call("ping"))["type"] == "pong"
