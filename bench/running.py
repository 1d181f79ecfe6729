"""Programs that run while something is measured: started on free ports of loopback, ended by their ids."""
# ruff: noqa: S603 (to run programs is what a bench does)

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 15.0
"""Seconds that a server has to start, and to end."""


class BenchError(Exception):
    """What keeps the bench from measuring, in a line for people."""


@dataclass(frozen=True, slots=True)
class Redis:
    """A `redis-server` that runs."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        """Where it is found."""
        return f"redis://127.0.0.1:{self.port}/0"


@contextmanager
def redis() -> Iterator[Redis]:
    """Yield an empty Redis that writes nothing to disk."""
    program = shutil.which("redis-server")
    if program is None:
        raise BenchError("redis-server is not installed (Debian: redis-server)")
    with tempfile.TemporaryDirectory(prefix="fanway-bench-") as directory:
        port = free_port()
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", ""]
        with running(command, cwd=Path(directory), env=dict(os.environ)) as process:
            until_listening(process, port)
            yield Redis(process.pid, port)


@contextmanager
def running(command: Sequence[str], *, cwd: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run *command*; what it says on stderr is shown only if it does not end well."""
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            try:
                yield process
            finally:
                process.terminate()
                try:
                    status = process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    status = process.wait()
        if status:
            errors.seek(0)
            sys.stderr.write(errors.read())


def until_listening(process: subprocess.Popen[str], port: int) -> None:
    """Return once *process* takes connections on *port*."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise BenchError(f"nothing listens on port {port}; what the server said is above")


def free_port() -> int:
    """Return a port that nobody has now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
