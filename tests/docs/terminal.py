"""The reader of a page: types its blocks, one after the other, into real terminals beside a real gateway."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from tests.docs.pages import ROOT, Block

TIMEOUT_SECONDS = 30.0
_ANNOUNCED = re.compile(r"(clients|backends) +\w+://[^/]*:(\d+)/")
_PORTS = {"clients": "8000", "backends": "8001"}
_FOREIGN = ("FANWAY_", "PYTHONPATH")
# What is made anew for every terminal, rather than remembered from the one before.
_OURS = "PATH|PWD|OLDPWD|SHLVL|FANWAY_(INTERNAL_)?URL|FANWAY_LISTEN__[A-Z]+__PORT"


class Running:
    """A command that goes on in a terminal of its own: what it prints and what it complains of."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._lines: list[str] = []
        self._matched = 0

    async def line(self) -> str:
        """Return the next line, once it is there."""
        assert self.process.stdout is not None
        async with asyncio.timeout(TIMEOUT_SECONDS):
            line = (await self.process.stdout.readline()).decode()
        assert line, f"it ended after {self._lines}"
        self._lines.append(line.rstrip("\n"))
        return self._lines[-1]

    async def shows(self, expected: str) -> None:
        """Wait until it has printed every line of *expected*, in their order, whatever else between."""
        for wanted in expected.splitlines():
            found = False
            while not found:
                if self._matched == len(self._lines):
                    try:
                        await self.line()
                    except TimeoutError:
                        raise AssertionError(f"waited for {wanted!r}, saw {self._lines}") from None
                found = alike(self._lines[self._matched], wanted)
                self._matched += 1

    async def ports(self) -> dict[str, str]:
        """Return where a gateway listens, for its clients and for backends."""
        while len(found := dict(filter(None, map(_announced, self._lines)))) < len(_PORTS):
            await self.line()
        return found

    async def end(self) -> None:
        """End it as Ctrl-C does, and everything that it started."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGINT)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self.process.communicate()


class Terminals:
    """The terminals of one reader, in one directory: what one exports the next ones know."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._exported = home / ".exported"
        self._running: dict[str, Running] = {}
        self._ports = dict(_PORTS)
        self._printed = ""

    @classmethod
    @asynccontextmanager
    async def opened(cls, home: Path) -> AsyncIterator[Self]:
        """Sit down in *home*, which looks like a checkout after `make setup`."""
        (home / ".venv").symlink_to(sys.prefix)
        (home / "examples").symlink_to(ROOT / "examples")
        tools = home / ".tools"
        tools.mkdir()
        curl = tools / "curl"
        curl.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("curl.py")}" "$@"\n')
        curl.chmod(0o755)
        terminals = cls(home)
        terminals._exported.touch()
        try:
            yield terminals
        finally:
            for running in reversed(terminals._running.values()):
                await running.end()

    async def take(self, block: Block) -> None:
        """Do with *block* what its marks say."""
        text = self._with_our_ports(block.text)
        for mark, value in block.marks.items():
            match mark:
                case "file":
                    (self._home / value).write_text(text)
                case "run":
                    await self.run(text)
                case "start":
                    await self.start(value, text)
                case "output":
                    await self._running[value].shows(text)
                case "answer":
                    assert alike(json.loads(self._printed), json.loads(text)), self._printed
                case _:
                    raise AssertionError(f"line {block.line}: nobody knows the mark {mark!r}")

    async def run(self, command: str) -> None:
        """Type *command*, which must end well."""
        remember = f'export -p | grep -vE "^declare -x ({_OURS})(=|$)" > "{self._exported}"'
        script = f'set -eu\n. "{self._exported}"\n{command}\n{remember}\n'
        process = await self._typed(script, stderr=asyncio.subprocess.PIPE)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            printed, complained = await process.communicate()
        self._printed = printed.decode()
        assert process.returncode == 0, f"{command}\n{self._printed}{complained.decode()}"

    async def start(self, name: str, command: str) -> None:
        """Type *command* into a terminal of its own, and go on once it has shown something.

        A gateway has to say where it listens: there, its clients and backends find it from then on.
        """
        if name in self._running:
            await self._running.pop(name).end()
        script = f'. "{self._exported}"\n{command}'
        running = Running(await self._typed(script, stderr=asyncio.subprocess.STDOUT))
        self._running[name] = running
        await running.line()
        if "fanway serve" in command:
            self._ports = await running.ports()

    async def _typed(self, script: str, *, stderr: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            script,
            cwd=self._home,
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        ours = {name: value for name, value in ours.items() if not name.lower().endswith("_proxy")}
        path = [str(self._home / ".tools"), str(self._home / ".venv" / "bin"), ours["PATH"]]
        return ours | {
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "FANWAY_LISTEN__PUBLIC__PORT": "0",
            "FANWAY_LISTEN__INTERNAL__PORT": "0",
            "FANWAY_URL": f"ws://127.0.0.1:{self._ports['clients']}",
            "FANWAY_INTERNAL_URL": f"http://127.0.0.1:{self._ports['backends']}",
        }

    def _with_our_ports(self, text: str) -> str:
        """Return *text* with the ports of the gateway at hand in the place of the default ones."""
        for who, port in _PORTS.items():
            text = re.sub(rf"\b{port}\b", f"\0{who}\0", text)
        return re.sub(r"\0(\w+)\0", lambda found: self._ports[found[1]], text)


def _announced(line: str) -> tuple[str, str] | None:
    found = _ANNOUNCED.match(line)
    return None if found is None else (found[1], found[2])


def alike(seen: Any, expected: Any) -> bool:
    """Return whether *seen* is what a page says, in which `…` stands for any text."""
    if isinstance(expected, dict) and isinstance(seen, dict):
        return seen.keys() == expected.keys() and all(alike(seen[name], expected[name]) for name in expected)
    if isinstance(expected, list) and isinstance(seen, list):
        return len(seen) == len(expected) and all(map(alike, seen, expected))
    if isinstance(expected, str) and isinstance(seen, str):
        parts = (re.sub(r"([*?[])", r"[\1]", part) for part in expected.split("…"))
        return fnmatchcase(seen, "*".join(parts))
    return type(seen) is type(expected) and bool(seen == expected)
