"""examples/chat.py: two users in two terminals, one of whom loses the connection."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Self

import pytest

from tests.docs.pages import ROOT
from tests.e2e.gateway import GatewayProcess, gateway_process, token

PROGRAM = ROOT / "examples" / "chat.py"
TIMEOUT_SECONDS = 30.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


class TerminalUser:
    """A user at a terminal that runs the example."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    @classmethod
    @asynccontextmanager
    async def start(cls, gateway: GatewayProcess, channel: str, name: str) -> AsyncIterator[Self]:
        url = f"ws://127.0.0.1:{gateway.public}/v1/ws"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            channel,
            *("--name", name, "--url", url, "--token", token(name, now=time.time())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            user = cls(process)
            await user.wait_for(f"subscribed to chat:{channel}")
            yield user
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def type_line(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        await self.process.stdin.drain()

    async def wait_for(self, expected: str) -> None:
        """Return when a line that starts with *expected* is printed."""
        assert self.process.stdout is not None
        line = None
        while line is None or not line.startswith(expected):
            async with asyncio.timeout(TIMEOUT_SECONDS):
                line = (await self.process.stdout.readline()).decode()
            assert line, f"waited for {expected!r}, read {self.lines}"
            self.lines.append(line.rstrip("\n"))

    async def leave(self) -> int:
        """Press Ctrl-D; return the exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self.process.wait()


async def test_a_user_who_loses_the_connection_misses_nothing(gateway: GatewayProcess) -> None:
    async with (
        TerminalUser.start(gateway, "flat", "ann") as ann,
        TerminalUser.start(gateway, "flat", "ben") as ben,
    ):
        await ann.wait_for("ben joined")
        await ann.type_line("hello")
        for user in (ann, ben):
            await user.wait_for("ann: hello")
        await gateway.request("POST", "/v1/users/ben/disconnect", {"code": 4011})
        await ben.wait_for("reconnecting in")
        await ann.type_line("are you there?")
        await ben.wait_for("ann: are you there?")
        await ben.type_line("again")
        for user in (ann, ben):
            await user.wait_for("ben: again")
        assert await ben.leave() == 0
        await ann.wait_for("ben left")
    assert [line for line in ben.lines if line.startswith(("ann", "ben"))] == [
        "ann: hello",
        "ann: are you there?",
        "ben: again",
    ]


async def test_lines_typed_before_ctrl_d_are_published(gateway: GatewayProcess) -> None:
    async with (
        TerminalUser.start(gateway, "door", "ann") as ann,
        TerminalUser.start(gateway, "door", "ben") as ben,
    ):
        await ben.type_line("bye")
        assert await ben.leave() == 0
        await ann.wait_for("ben: bye")


async def test_a_disconnected_user_does_not_reconnect(gateway: GatewayProcess) -> None:
    async with TerminalUser.start(gateway, "exit", "eve") as eve:
        await gateway.request("POST", "/v1/users/eve/disconnect")
        await eve.wait_for("the gateway closed with 4005")
        assert await eve.leave() == 1


async def test_control_characters_do_not_reach_the_terminal(gateway: GatewayProcess) -> None:
    async with TerminalUser.start(gateway, "safe", "ann") as ann:
        data = {"name": "mallory", "text": "\x1b[2J\x07red"}
        await gateway.request("POST", "/v1/publish", {"channel": "chat:safe", "data": data})
        await ann.wait_for("mallory: [2Jred")
