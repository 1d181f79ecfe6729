"""Runs the blocks of a page in shells, one after the other, next to a real gateway."""

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
_LISTENER_LINE = re.compile(r"(clients|backends) +\w+://[^/]*:(\d+)/")
_PORTS = {"clients": "8000", "backends": "8001"}
_REMOVED_PREFIXES = ("FANWAY_", "PYTHONPATH")
# Variables that each shell sets itself instead of inheriting the exported value of the previous one.
_NOT_EXPORTED = "PATH|PWD|OLDPWD|SHLVL|FANWAY_(INTERNAL_)?URL|FANWAY_LISTEN__[A-Z]+__PORT"


class RunningCommand:
    """A command that runs in the background: its stdout and stderr."""

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

    async def wait_for_lines(self, expected: str) -> None:
        """Wait until it has printed every line of *expected*, in their order, whatever else between."""
        for wanted in expected.splitlines():
            found = False
            while not found:
                if self._matched == len(self._lines):
                    try:
                        await self.line()
                    except TimeoutError:
                        raise AssertionError(f"waited for {wanted!r}, saw {self._lines}") from None
                found = matches(self._lines[self._matched], wanted)
                self._matched += 1

    async def ports(self) -> dict[str, str]:
        """Return where a gateway listens, for its clients and for backends."""
        while len(found := dict(filter(None, map(_announced_port, self._lines)))) < len(_PORTS):
            await self.line()
        return found

    async def end(self) -> None:
        """End it as Ctrl-C does, and everything that it started."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGINT)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self.process.communicate()


class Terminals:
    """The shells of one page, in one directory: each inherits the variables that earlier ones exported."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._exported = home / ".exported"
        self._running: dict[str, RunningCommand] = {}
        self._ports = dict(_PORTS)
        self._printed = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, home: Path) -> AsyncIterator[Self]:
        """Prepare *home* so that it looks like a checkout after `make setup`."""
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

    async def execute(self, block: Block) -> None:
        """Execute *block* as its marks say."""
        text = self._with_actual_ports(block.text)
        for mark, value in block.marks.items():
            match mark:
                case "file":
                    (self._home / value).write_text(text)
                case "run":
                    await self.run(text)
                case "start":
                    await self.start(value, text)
                case "output":
                    await self._running[value].wait_for_lines(text)
                case "answer":
                    assert matches(json.loads(self._printed), json.loads(text)), self._printed
                case _:
                    raise AssertionError(f"line {block.line}: unknown mark {mark!r}")

    async def run(self, command: str) -> None:
        """Run *command*, which must exit with 0."""
        remember = f'export -p | grep -vE "^declare -x ({_NOT_EXPORTED})(=|$)" > "{self._exported}"'
        script = f'set -eu\n. "{self._exported}"\n{command}\n{remember}\n'
        process = await self._start_shell(script, stderr=asyncio.subprocess.PIPE)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            printed, complained = await process.communicate()
        self._printed = printed.decode()
        assert process.returncode == 0, f"{command}\n{self._printed}{complained.decode()}"

    async def start(self, name: str, command: str) -> None:
        """Start *command* in the background, and return after its first line of output.

        Where it is a gateway, later commands use the ports that it announces.
        """
        if name in self._running:
            await self._running.pop(name).end()
        script = f'. "{self._exported}"\n{command}'
        running = RunningCommand(await self._start_shell(script, stderr=asyncio.subprocess.STDOUT))
        self._running[name] = running
        await running.line()
        if "fanway serve" in command:
            self._ports = await running.ports()

    async def _start_shell(self, script: str, *, stderr: int) -> asyncio.subprocess.Process:
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
        ours = {name: value for name, value in os.environ.items() if not name.startswith(_REMOVED_PREFIXES)}
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

    def _with_actual_ports(self, text: str) -> str:
        """Return *text* with the default ports replaced by those of the running gateway."""
        for who, port in _PORTS.items():
            text = re.sub(rf"\b{port}\b", f"\0{who}\0", text)
        return re.sub(r"\0(\w+)\0", lambda found: self._ports[found[1]], text)


def _announced_port(line: str) -> tuple[str, str] | None:
    found = _LISTENER_LINE.match(line)
    return None if found is None else (found[1], found[2])


def matches(actual: Any, expected: Any) -> bool:
    """Return whether *actual* is what a page says, in which `…` stands for any text."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        return actual.keys() == expected.keys() and all(
            matches(actual[name], expected[name]) for name in expected
        )
    if isinstance(expected, list) and isinstance(actual, list):
        return len(actual) == len(expected) and all(map(matches, actual, expected))
    if isinstance(expected, str) and isinstance(actual, str):
        parts = (re.sub(r"([*?[])", r"[\1]", part) for part in expected.split("…"))
        return fnmatchcase(actual, "*".join(parts))
    return type(actual) is type(expected) and bool(actual == expected)
