"""Runs the blocks of a page in shells, one after the other, next to a real gateway."""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import sysconfig
import venv
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from tests.docs.pages import ROOT, Block
from tests.docs.pages import Page as PageOfDocs
from tests.e2e.browser import Browser, Page, chromium

TIMEOUT_SECONDS = 60.0
# The ports that the pages name, and at which line of its output a program says which one it has.
_PORTS = {"clients": "8000", "backends": "8001", "site": "8080", "vite": "5173", "uvicorn": "9000"}
_ANNOUNCEMENTS = {
    "clients": re.compile(r"clients +\w+://[^/]*:(\d+)/"),
    "backends": re.compile(r"backends +\w+://[^/]*:(\d+)/"),
    "site": re.compile(r"Serving HTTP on \S+ port (\d+)"),
    "uvicorn": re.compile(r".*Uvicorn running on http://[^:]*:(\d+)"),
    "vite": re.compile(r".*Local: +http://localhost:(\d+)/"),
}
_SERVERS = {
    "fanway serve": ("clients", "backends"),
    "http.server": ("site",),
    "uvicorn": ("uvicorn",),
    "vite": ("vite",),
}
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

    async def port(self, name: str) -> str:
        """Return the port that a server announces under *name*."""
        while not (found := [match for line in self._lines if (match := _ANNOUNCEMENTS[name].match(line))]):
            await self.line()
        return found[0][1]

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
        # http.server and uvicorn take any free port; Vite takes the next one that is free.
        self._ports = _PORTS | {"site": "0", "uvicorn": "0"}
        self._printed = ""
        self._browser: Browser | None = None
        self._tabs: dict[str, Page] = {}
        self._closing = ExitStack()

    @classmethod
    @asynccontextmanager
    async def open(cls, home: Path, page: PageOfDocs) -> AsyncIterator[Self]:
        """Prepare *home* so that it looks like a checkout after `make setup`, as far as *page* uses it."""
        commands = "".join(block.text for block in page.blocks if "run" in block.marks)
        (home / "clients").mkdir()
        if "clients/typescript" in commands:
            _copy_typescript_client(home)
        if "clients/python" in commands:
            (home / "clients" / "python").symlink_to(ROOT / "clients" / "python")
            _make_environment(home / ".venv")
        else:
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
            terminals._closing.close()
            for running in reversed(terminals._running.values()):
                await running.end()

    async def execute(self, block: Block) -> None:
        """Execute *block* as its marks say."""
        text = self._with_actual_ports(block.text)
        folder = block.marks.get("in", "")
        for mark, value in block.marks.items():
            match mark:
                case "in":
                    pass
                case "file":
                    (self._home / value).parent.mkdir(exist_ok=True)
                    (self._home / value).write_text(text)
                case "run":
                    await self.run(text, folder)
                case "start":
                    await self.start(value, text, folder)
                case "types":
                    self.tab(value).wait("document.querySelector('input') !== null")
                    self.tab(value).type("input", text.rstrip("\n"))
                case "shows":
                    lines = json.dumps(text.splitlines())
                    self.tab(value).wait(f"{lines}.every((line) => document.body.innerText.includes(line))")
                case "output":
                    await self._running[value].wait_for_lines(text)
                case "answer":
                    assert matches(json.loads(self._printed), json.loads(text)), self._printed
                case _:
                    raise AssertionError(f"line {block.line}: unknown mark {mark!r}")

    def tab(self, address: str) -> Page:
        """Return the tab of a browser that shows *address*, as a page of the documentation names it."""
        if self._browser is None:
            self._browser = self._closing.enter_context(chromium(self._home / ".chromium"))
        if address not in self._tabs:
            self._tabs[address] = tab = self._closing.enter_context(self._browser.page())
            tab.open(self._with_actual_ports(address))
        return self._tabs[address]

    async def run(self, command: str, folder: str = "") -> None:
        """Run *command* in *folder*; it must exit with 0."""
        remember = f'export -p | grep -vE "^declare -x ({_NOT_EXPORTED})(=|$)" > "{self._exported}"'
        script = f'set -eu\n. "{self._exported}"\n{command}\n{remember}\n'
        process = await self._start_shell(script, folder, stderr=asyncio.subprocess.PIPE)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            printed, complained = await process.communicate()
        self._printed = printed.decode()
        assert process.returncode == 0, f"{command}\n{self._printed}{complained.decode()}"

    async def start(self, name: str, command: str, folder: str = "") -> None:
        """Start *command* in the background, in *folder*, and return after its first line of output.

        Where it is a server, later commands use the ports that it announces.
        """
        if name in self._running:
            await self._running.pop(name).end()
        script = f'. "{self._exported}"\n{command}'
        running = RunningCommand(await self._start_shell(script, folder, stderr=asyncio.subprocess.STDOUT))
        self._running[name] = running
        await running.line()
        for program, ports in _SERVERS.items():
            if program in command:
                self._ports |= {port: await running.port(port) for port in ports}

    async def _start_shell(self, script: str, folder: str, *, stderr: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            script,
            cwd=self._home / folder,
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
            # The lock file of `make setup` has installed what a build needs.
            "PIP_NO_BUILD_ISOLATION": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "NO_COLOR": "1",
            "npm_config_prefer_offline": "true",
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


def _copy_typescript_client(home: Path) -> None:
    """Copy it, because a build writes beside its sources, and other tests build it at the same time."""
    source = ROOT / "clients" / "typescript"
    shutil.copytree(
        source,
        home / "clients" / "typescript",
        symlinks=True,
        ignore=lambda folder, _: ["dist"] if folder == str(source) else [],
    )


def _make_environment(path: Path) -> None:
    """Make a virtual environment with what that of the tests has, into which more can be installed."""
    venv.create(path, symlinks=True)
    programs = path / "bin"
    for program in (Path(sys.prefix) / "bin").iterdir():
        if not (programs / program.name).exists() and not program.name.startswith("pip"):
            (programs / program.name).symlink_to(program)
    (programs / "pip").write_text(f'#!/bin/sh\nexec "{programs}/python" -m pip "$@"\n')
    (programs / "pip").chmod(0o755)
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(path)}))
    inherited = sysconfig.get_path("purelib")
    (site_packages / "inherited.pth").write_text(f"import site; site.addsitedir({inherited!r})\n")


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
