"""A gateway for one load test: the installed `fanway serve --dev` on free ports."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from urllib.request import ProxyHandler, Request, build_opener

START_SECONDS = 30.0
"""How long a gateway may take to print its addresses, and to become ready."""

STOP_SECONDS = 40.0
"""How long a gateway may take to drain."""

RELEASE_SECONDS = 5.0
"""How long a gateway may take to release what it holds for clients that have disconnected."""

_PUBLIC_URL = re.compile(r"ws://\S+")
_PUSH_URL = re.compile(r"(http://[^/\s]+)/v1/publish")


class GatewayFailed(Exception):
    """The gateway did not start, or exited with an error."""


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """A running gateway: its addresses, its push key, and the secret that signs tokens."""

    url: str
    push: str
    key: str
    secret: str
    pid: int

    def stats(self) -> dict[str, int]:
        """Return its totals (`GET /v1/stats`)."""
        totals: dict[str, int] = json.loads(self._get("/v1/stats"))
        return totals

    def wait_until_ready(self, process: subprocess.Popen[str]) -> None:
        """Return once it serves clients: its workers may start to listen after the addresses are printed."""
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                self._get("/readyz")
                return
            except OSError:
                time.sleep(0.02)
        raise GatewayFailed("the gateway did not become ready")

    def _get(self, path: str) -> bytes:
        request = Request(self.push + path, headers={"Authorization": f"Bearer {self.key}"})  # noqa: S310
        with build_opener(ProxyHandler({})).open(request, timeout=START_SECONDS) as response:
            body: bytes = response.read()
            return body

    def unreleased_resources(self) -> dict[str, int]:
        """Return what it still holds after all clients disconnected; empty if it releases all in time."""
        deadline = time.monotonic() + RELEASE_SECONDS
        while True:
            held = {name: count for name, count in self.stats().items() if name != "nodes" and count}
            if not held or time.monotonic() > deadline:
                return held
            time.sleep(0.05)

    def resident_bytes(self) -> int:
        """Return the resident memory of the process in bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def run_gateway(log: Path, arguments: Sequence[str] = ()) -> Iterator[GatewayProcess]:
    """Run a gateway with additional *arguments*, its output in *log*; raise `GatewayFailed`."""
    secret = secrets.token_hex(32)
    fanway = str(Path(sys.executable).with_name("fanway"))
    command = [fanway, "serve", "--dev", "--port=0", "--internal-port=0"]
    log.parent.mkdir(parents=True, exist_ok=True)
    # An empty working directory, so that no gateway.toml is read.
    with tempfile.TemporaryDirectory() as empty, log.open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 (our own command)
            [*command, *arguments],
            cwd=empty,
            env={**os.environ, "FANWAY_AUTH__SECRET": secret},
            # Ctrl-C in a terminal must not reach the gateway: it stops after its clients.
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            url, push = _read_addresses(process, log)
            gateway = GatewayProcess(url, push, "dev", secret, process.pid)
            gateway.wait_until_ready(process)
            yield gateway
        finally:
            _stop(process)
        if process.returncode:
            raise GatewayFailed(f"the gateway exited with {process.returncode}; see {log}")


def _read_addresses(process: subprocess.Popen[str], log: Path) -> tuple[str, str]:
    kill_timer = Timer(START_SECONDS, process.kill)
    kill_timer.start()
    output = ""
    try:
        for line in process.stdout or ():
            output += line
            public, push = _PUBLIC_URL.search(output), _PUSH_URL.search(output)
            if public and push:
                return public[0], push[1]
    finally:
        kill_timer.cancel()
        kill_timer.join()
    raise GatewayFailed(f"the gateway did not print its addresses; see {log}")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
