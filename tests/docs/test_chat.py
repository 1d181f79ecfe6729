"""examples/chat.py: two people in two terminals, one of whom loses the connection."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Self

import pytest

from tests.docs.pages import ROOT
from tests.e2e.gateway import Served, served, token

PROGRAM = ROOT / "examples" / "chat.py"
PATIENCE = 30.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


class Person:
    """Somebody at a terminal."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.seen: list[str] = []

    @classmethod
    @asynccontextmanager
    async def enters(cls, gateway: Served, room: str, name: str) -> AsyncIterator[Self]:
        url = f"ws://127.0.0.1:{gateway.public}/v1/ws"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            room,
            *("--name", name, "--url", url, "--token", token(name, now=time.time())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            person = cls(process)
            await person.sees(f"in chat:{room}")
            yield person
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def types(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        await self.process.stdin.drain()

    async def sees(self, expected: str) -> None:
        """Wait for a line that begins like *expected*."""
        assert self.process.stdout is not None
        line = None
        while line is None or not line.startswith(expected):
            async with asyncio.timeout(PATIENCE):
                line = (await self.process.stdout.readline()).decode()
            assert line, f"waited for {expected!r}, saw {self.seen}"
            self.seen.append(line.rstrip("\n"))

    async def leaves(self) -> int:
        """Press Ctrl-D; return the exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


async def test_who_loses_the_connection_misses_nothing(gateway: Served) -> None:
    async with Person.enters(gateway, "flat", "ann") as ann, Person.enters(gateway, "flat", "ben") as ben:
        await ann.sees("ben came")
        await ann.types("hello")
        for person in (ann, ben):
            await person.sees("ann: hello")
        await gateway.request("POST", "/v1/users/ben/disconnect", {"code": 4011})
        await ben.sees("connecting again in")
        await ann.types("are you there?")
        await ben.sees("ann: are you there?")
        await ben.types("again")
        for person in (ann, ben):
            await person.sees("ben: again")
        assert await ben.leaves() == 0
        await ann.sees("ben left")
    assert [line for line in ben.seen if line.startswith(("ann", "ben"))] == [
        "ann: hello",
        "ann: are you there?",
        "ben: again",
    ]


async def test_what_was_typed_is_said_before_leaving(gateway: Served) -> None:
    async with Person.enters(gateway, "door", "ann") as ann, Person.enters(gateway, "door", "ben") as ben:
        await ben.types("bye")
        assert await ben.leaves() == 0
        await ann.sees("ben: bye")


async def test_who_is_told_to_go_stays_away(gateway: Served) -> None:
    async with Person.enters(gateway, "exit", "eve") as eve:
        await gateway.request("POST", "/v1/users/eve/disconnect")
        await eve.sees("the gateway closed with 4005")
        assert await eve.leaves() == 1


async def test_control_characters_do_not_reach_the_terminal(gateway: Served) -> None:
    async with Person.enters(gateway, "safe", "ann") as ann:
        data = {"name": "mallory", "text": "\x1b[2J\x07red"}
        await gateway.request("POST", "/v1/publish", {"channel": "chat:safe", "data": data})
        await ann.sees("mallory: [2Jred")
