"""Gateways to test: `fanway serve` in a process of its own, or on the running loop, on free ports."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from gateway.access.keys import secret_keys
from gateway.access.tokens import mint
from gateway.runtime.listeners import Listener
from gateway.runtime.node import GatewayNode
from gateway.settings import load

FANWAY = str(Path(sys.executable).with_name("fanway"))
SECRET = "a-secret-of-the-tests-that-is-long-enough"
KEY = "dev"
HEADERS = {"authorization": f"Bearer {KEY}"}
_ADDRESS = re.compile(r"(?:clients|backends) +\w+://[^/]*:(\d+)/")
# What a gateway may take to start and to end; a healthy one takes a second on a busy machine.
PATIENCE = 40.0
_PAGE = os.sysconf("SC_PAGESIZE")
LOG = "stderr.log"


class Served:
    """A `fanway serve` that runs, as its clients and its operators see it."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self._errors = errors
        self._status = 0
        self.public, self.internal = (_address(process, errors) for _ in range(2))

    @property
    def stderr(self) -> str:
        """What it has logged so far."""
        return self._errors.read_text()

    def rss(self) -> int:
        """Bytes of memory that are its own now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE

    async def figures(self) -> dict[str, float]:
        """Return every figure of `/metrics` that is ours, by its name without `fanway_`."""
        text = (await self.request("GET", "/metrics")).text
        pairs = (line.split() for line in text.splitlines() if line.startswith("fanway_"))
        return {name.removeprefix("fanway_"): float(value) for name, value in pairs}

    async def request(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Return what the internal API answers."""
        return await request(self.internal, method, path, body)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def gone(self) -> None:
        """Wait until the process has ended."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        descriptor = os.pidfd_open(self.process.pid)
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def fails(self, status: int) -> None:
        """Expect it to end with *status* instead of 0."""
        self._status = status

    def kill(self) -> None:
        """End it as a power cut does."""
        self._status = -signal.SIGKILL
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        """End it as a supervisor does; what it leaves must be in order."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        assert "Traceback" not in self.stderr, self.stderr
        assert status == self._status, self.stderr


@contextmanager
def served(home: Path, config: str = "", *, dev: bool = True, **settings: str) -> Iterator[Served]:
    """Run `fanway serve` in *home* with *config* as file and *settings* as SECTION__KEY; it must end well."""
    with (home / LOG).open("w") as log, logging_to(log.fileno(), home, config, settings, dev=dev) as gateway:
        yield gateway


@contextmanager
def logging_to(
    stderr: int, home: Path, config: str, settings: Mapping[str, str] | None = None, *, dev: bool = True
) -> Iterator[Served]:
    """Run one whose log goes to the file descriptor *stderr*."""
    arguments = ["--config", str(_file(home, config))] if config else []
    arguments += ["--dev"] if dev else []
    ours = {f"FANWAY_{name}": value for name, value in (settings or {}).items()}
    others = {name: value for name, value in os.environ.items() if not name.startswith("FANWAY_")}
    process = subprocess.Popen(
        [FANWAY, "serve", "--port", "0", "--internal-port", "0", *arguments],
        cwd=home,
        env={**others, "FANWAY_AUTH__SECRET": SECRET, **ours},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    with process:
        try:
            gateway = Served(process, home / LOG)
            yield gateway
            gateway.stop()
        finally:
            process.kill()


@contextmanager
def pair(homes: pytest.TempPathFactory, config: str = "", **settings: str) -> Iterator[tuple[Served, Served]]:
    """Run two nodes of one cluster, `one` and `two`, each with *config* and *settings*."""
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(
                served(
                    homes.mktemp(name), config, dev=True, NODE__NAME=name, BROKER__KIND="redis", **settings
                )
            )
            for name in ("one", "two")
        )
        yield one, two


class Running:
    """A gateway on the running loop."""

    def __init__(self, gateway: GatewayNode) -> None:
        self.gateway = gateway
        self.public, self.internal = gateway.public.port, gateway.internal.port
        self.stopped = asyncio.Event()
        """Set to make it drain and end."""

    async def request(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Return what the internal API answers."""
        return await request(self.internal, method, path, body)


@asynccontextmanager
async def running(
    home: Path, config: str = "", *, dev: bool = True, **settings: object
) -> AsyncIterator[Running]:
    """Run a gateway on the running loop, with *settings* as section__key; it has ended when this returns."""
    flags: dict[str, object] = {
        "listen.public.port": 0,
        "listen.internal.port": 0,
        "auth.secret": SECRET,
        **{name.replace("__", "."): value for name, value in settings.items()},
    }
    loaded = load(_file(home, config) if config else None, dev=dev, flags=flags)
    gateway = GatewayNode(loaded)
    run, started = Running(gateway), asyncio.Event()
    serving = asyncio.ensure_future(gateway.serve(run.stopped, lambda _: started.set()))
    await started.wait()
    try:
        yield run
    finally:
        run.stopped.set()
        await serving


@asynccontextmanager
async def listening(listener: Listener) -> AsyncIterator[int]:
    """Serve *listener* on the running loop; yields its port."""
    serving = asyncio.ensure_future(listener.run_until_stopped())
    try:
        yield listener.port
    finally:
        listener.stop()
        await serving


async def become(condition: Callable[[], bool]) -> None:
    """Wait until what runs on this loop has made *condition* true."""
    async with asyncio.timeout(PATIENCE):
        # A gateway tells clients of things, not tests.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def request(port: int, method: str, path: str, body: object = None) -> httpx.Response:
    """Return what the internal listener on *port* answers."""
    # Without TLS there is no need to read every authority's certificate first, which takes 20 ms.
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=PATIENCE, headers=HEADERS) as client:
        content = None if body is None else orjson.dumps(body)
        return await client.request(
            method,
            f"http://127.0.0.1:{port}{path}",
            content=content,
            headers={} if body is None else {"content-type": "application/json"},
        )


async def publish(port: int, channel: str, data: object, **more: object) -> Mapping[str, Any]:
    """Publish through the internal listener on *port*; it must take it."""
    answer = await request(port, "POST", "/v1/publish", {"channel": channel, "data": data, **more})
    assert answer.status_code == 200, answer.text
    told: Mapping[str, Any] = answer.json()
    return told


def token(user: str, *, now: float, ttl: float = 3600.0, **claims: Any) -> str:
    """Return a token of *user* for gateways started here."""
    return mint(secret_keys(SECRET)[0], user=user, ttl=ttl, now=now, **claims)


def _file(home: Path, config: str) -> Path:
    path = home / "gateway.toml"
    path.write_text(config)
    return path


def _address(process: subprocess.Popen[str], errors: Path) -> int:
    """The port in the next line that announces a listener."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := _ADDRESS.match(line):
            return int(found[1])
    raise AssertionError(errors.read_text())
