"""A gateway of our own: the installed `fanway serve --dev` on free ports, for as long as it is wanted."""

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

START, STOP, QUIET = 30.0, 40.0, 5.0
"""Seconds that a gateway may take to say where it listens, to drain, to notice that everybody has left."""

_CLIENTS = re.compile(r"ws://\S+")
_BACKENDS = re.compile(r"(http://[^/\s]+)/v1/publish")


class NotServing(Exception):
    """The gateway did not start, or did not end well."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where a gateway serves, and what opens it."""

    url: str
    push: str
    key: str
    secret: str
    pid: int

    def stats(self) -> dict[str, int]:
        """Return its totals."""
        totals: dict[str, int] = json.loads(self._get("/v1/stats"))
        return totals

    def wait_until_ready(self, process: subprocess.Popen[str]) -> None:
        """Return once it serves clients: its workers may begin to listen after it has said where."""
        deadline = time.monotonic() + START
        while process.poll() is None and time.monotonic() < deadline:
            try:
                self._get("/readyz")
                return
            except OSError:
                time.sleep(0.02)
        raise NotServing("the gateway did not become ready")

    def _get(self, path: str) -> bytes:
        request = Request(self.push + path, headers={"Authorization": f"Bearer {self.key}"})  # noqa: S310
        with build_opener(ProxyHandler({})).open(request, timeout=START) as answer:
            body: bytes = answer.read()
            return body

    def leftovers(self) -> dict[str, int]:
        """Return what it still holds for clients who have all left: nothing, if it forgets them in time."""
        deadline = time.monotonic() + QUIET
        while True:
            held = {name: count for name, count in self.stats().items() if name != "nodes" and count}
            if not held or time.monotonic() > deadline:
                return held
            time.sleep(0.05)

    def memory(self) -> int:
        """Return its resident bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(log: Path, arguments: Sequence[str] = ()) -> Iterator[Gateway]:
    """Run a gateway with further *arguments*, what it says in *log*; raise `NotServing`."""
    secret = secrets.token_hex(32)
    fanway = str(Path(sys.executable).with_name("fanway"))
    command = [fanway, "serve", "--dev", "--port=0", "--internal-port=0"]
    log.parent.mkdir(parents=True, exist_ok=True)
    # An empty directory: whose gateway.toml lies about must not matter.
    with tempfile.TemporaryDirectory() as empty, log.open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 (our own command)
            [*command, *arguments],
            cwd=empty,
            env={**os.environ, "FANWAY_AUTH__SECRET": secret},
            # A terminal's Ctrl-C is for us; the gateway is to stop after those who use it.
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            url, push = _addresses(process, log)
            gateway = Gateway(url, push, "dev", secret, process.pid)
            gateway.wait_until_ready(process)
            yield gateway
        finally:
            _stop(process)
        if process.returncode:
            raise NotServing(f"the gateway exited with {process.returncode}; see {log}")


def _addresses(process: subprocess.Popen[str], log: Path) -> tuple[str, str]:
    impatience = Timer(START, process.kill)
    impatience.start()
    said = ""
    try:
        for line in process.stdout or ():
            said += line
            clients, backends = _CLIENTS.search(said), _BACKENDS.search(said)
            if clients and backends:
                return clients[0], backends[1]
    finally:
        impatience.cancel()
        impatience.join()
    raise NotServing(f"the gateway did not say where it listens; see {log}")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
