"""Gateways for tests, on free ports: `fanway serve` in a process of its own, or on the running event loop."""

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
TIMEOUT_SECONDS = 40.0
"""How long a gateway may take to start and to exit; a healthy one takes a second on a busy machine."""
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
LOG_NAME = "stderr.log"


class GatewayProcess:
    """A running `fanway serve`: its ports, its log, its metrics and its push API."""

    def __init__(self, popen: subprocess.Popen[str], log_path: Path) -> None:
        self.popen = popen
        self._log_path = log_path
        self._expected_status = 0
        self.public, self.internal = (_announced_port(popen, log_path) for _ in range(2))
        """The ports of its two listeners."""

    @property
    def stderr(self) -> str:
        """What it has logged so far."""
        return self._log_path.read_text()

    async def log_with(self, text: str) -> str:
        """Return what it has logged, once *text* is there: a thread writes the log."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while text not in self.stderr:  # noqa: ASYNC110 (another process does not notify us)
                await asyncio.sleep(0.01)
        return self.stderr

    def resident_bytes(self) -> int:
        """Return the resident set size of the process."""
        return int(Path(f"/proc/{self.popen.pid}/statm").read_text().split()[1]) * _PAGE_BYTES

    async def metrics(self) -> dict[str, float]:
        """Return the values of `/metrics` whose names start with `fanway_`, by the rest of the name."""
        text = (await self.request("GET", "/metrics")).text
        pairs = (line.split() for line in text.splitlines() if line.startswith("fanway_"))
        return {name.removeprefix("fanway_"): float(value) for name, value in pairs}

    async def request(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Return the answer of the push API."""
        return await request(self.internal, method, path, body)

    def send_signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    async def wait_exited(self) -> None:
        """Wait until the process has exited."""
        loop, exited = asyncio.get_running_loop(), asyncio.Event()
        descriptor = os.pidfd_open(self.popen.pid)
        loop.add_reader(descriptor, exited.set)
        try:
            await exited.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def expect_exit_status(self, status: int) -> None:
        """Let `stop` expect *status* instead of 0."""
        self._expected_status = status

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._expected_status = -signal.SIGKILL
        self.popen.kill()
        self.popen.wait(TIMEOUT_SECONDS)

    def stop(self) -> None:
        """End it with SIGTERM, and check its exit status and that its log has no traceback."""
        if self.popen.poll() is None:
            self.send_signal(signal.SIGTERM)
        status = self.popen.wait(TIMEOUT_SECONDS)
        assert "Traceback" not in self.stderr, self.stderr
        assert status == self._expected_status, self.stderr


@contextmanager
def gateway_process(
    home: Path, config: str = "", *, dev: bool = True, descriptors: int | str = "", **settings: str
) -> Iterator[GatewayProcess]:
    """Run `fanway serve` in *home*; it must exit cleanly.

    Args:
        home: Its working directory, and where its log is written.
        config: The text of its `gateway.toml`.
        dev: Whether it runs in dev mode.
        descriptors: Its limit of file descriptors; empty: that of the tests.
        settings: Environment variables, as SECTION__KEY.
    """
    with (
        (home / LOG_NAME).open("w") as log,
        gateway_process_logging_to(
            log.fileno(), home, config, settings, dev=dev, descriptors=descriptors
        ) as gateway,
    ):
        yield gateway


@contextmanager
def gateway_process_logging_to(
    stderr: int,
    home: Path,
    config: str,
    settings: Mapping[str, str] | None = None,
    *,
    dev: bool = True,
    descriptors: int | str = "",
) -> Iterator[GatewayProcess]:
    """As `gateway_process`, with the log written to the file descriptor *stderr*."""
    arguments = ["--config", str(_config_file(home, config))] if config else []
    arguments += ["--dev"] if dev else []
    environment = {f"FANWAY_{name}": value for name, value in (settings or {}).items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FANWAY_")}
    limited = ["prlimit", f"--nofile={descriptors}"] if descriptors else []
    process = subprocess.Popen(
        [*limited, FANWAY, "serve", "--port", "0", "--internal-port", "0", *arguments],
        cwd=home,
        env={**inherited, "FANWAY_AUTH__SECRET": SECRET, **environment},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    with process:
        try:
            gateway = GatewayProcess(process, home / LOG_NAME)
            yield gateway
            gateway.stop()
        finally:
            process.kill()


@contextmanager
def two_nodes(
    homes: pytest.TempPathFactory, config: str = "", **settings: str
) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    """Run two nodes of one cluster, called `one` and `two`, both with *config* and *settings*."""
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(
                gateway_process(
                    homes.mktemp(name), config, dev=True, NODE__NAME=name, BROKER__KIND="redis", **settings
                )
            )
            for name in ("one", "two")
        )
        yield one, two


class GatewayOnLoop:
    """A gateway on the running event loop."""

    def __init__(self, gateway: GatewayNode) -> None:
        self.gateway = gateway
        self.public, self.internal = gateway.public.port, gateway.internal.port
        self.stop = asyncio.Event()
        """Set it to make the gateway drain and end."""

    async def request(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Return the answer of the push API."""
        return await request(self.internal, method, path, body)


@asynccontextmanager
async def gateway_on_loop(
    home: Path, config: str = "", *, dev: bool = True, **settings: object
) -> AsyncIterator[GatewayOnLoop]:
    """Run a gateway on the running event loop, with *settings* as section__key; it ends with the block."""
    flags: dict[str, object] = {
        "listen.public.port": 0,
        "listen.internal.port": 0,
        "auth.secret": SECRET,
        **{name.replace("__", "."): value for name, value in settings.items()},
    }
    loaded = load(_config_file(home, config) if config else None, dev=dev, flags=flags)
    gateway = GatewayNode(loaded)
    run, started = GatewayOnLoop(gateway), asyncio.Event()
    serving = asyncio.ensure_future(gateway.serve(run.stop, lambda _: started.set()))
    await started.wait()
    try:
        yield run
    finally:
        run.stop.set()
        await serving


@asynccontextmanager
async def serving_listener(listener: Listener) -> AsyncIterator[int]:
    """Serve *listener* on the running event loop; yields its port."""
    serving = asyncio.ensure_future(listener.run_until_stopped())
    try:
        yield listener.port
    finally:
        listener.stop()
        await serving


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until tasks on this event loop have made *condition* true."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        # A gateway notifies its clients of changes, not tests.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def request(port: int, method: str, path: str, body: object = None) -> httpx.Response:
    """Return the answer of the internal listener on *port*."""
    # verify=False avoids loading all CA certificates, which takes 20 ms and is useless without TLS.
    async with httpx.AsyncClient(
        trust_env=False, verify=False, timeout=TIMEOUT_SECONDS, headers=HEADERS
    ) as client:
        content = None if body is None else orjson.dumps(body)
        return await client.request(
            method,
            f"http://127.0.0.1:{port}{path}",
            content=content,
            headers={} if body is None else {"content-type": "application/json"},
        )


async def publish(port: int, channel: str, data: object, **more: object) -> Mapping[str, Any]:
    """Publish through the internal listener on *port*, check the 200, and return its body."""
    answer = await request(port, "POST", "/v1/publish", {"channel": channel, "data": data, **more})
    assert answer.status_code == 200, answer.text
    body: Mapping[str, Any] = answer.json()
    return body


def token(user: str, *, now: float, ttl: float = 3600.0, **claims: Any) -> str:
    """Return a token of *user* that the gateways of this module accept."""
    return mint(secret_keys(SECRET)[0], user=user, ttl=ttl, now=now, **claims)


def _config_file(home: Path, config: str) -> Path:
    path = home / "gateway.toml"
    path.write_text(config)
    return path


def _announced_port(popen: subprocess.Popen[str], log_path: Path) -> int:
    """Return the port in the next line on stdout that announces a listener."""
    assert popen.stdout is not None
    for line in popen.stdout:
        if found := _ADDRESS.match(line):
            return int(found[1])
    raise AssertionError(log_path.read_text())
