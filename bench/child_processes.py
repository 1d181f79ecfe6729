"""Child processes for a measurement: started on free ports of loopback, stopped by their ids."""
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

START_STOP_SECONDS = 15.0
"""How long a server may take to start, and to stop."""


class BenchError(Exception):
    """What prevents the measurement, in one line for people."""


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A running `redis-server`."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        """The URL that gateways connect to."""
        return f"redis://127.0.0.1:{self.port}/0"


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Run an empty Redis that writes nothing to disk."""
    program = shutil.which("redis-server")
    if program is None:
        raise BenchError("redis-server is not installed (Debian: redis-server)")
    with tempfile.TemporaryDirectory(prefix="fanway-bench-") as directory:
        port = free_port()
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", ""]
        with child_process(command, cwd=Path(directory), env=dict(os.environ)) as process:
            wait_until_listening(process, port)
            yield RedisServer(process.pid, port)


@contextmanager
def child_process(
    command: Sequence[str], *, cwd: Path, env: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Run *command*; print its stderr only if it exits with an error."""
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            try:
                yield process
            finally:
                process.terminate()
                try:
                    status = process.wait(START_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    status = process.wait()
        if status:
            errors.seek(0)
            sys.stderr.write(errors.read())


def wait_until_listening(process: subprocess.Popen[str], port: int) -> None:
    """Return once *process* accepts connections on *port*."""
    deadline = time.monotonic() + START_STOP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise BenchError(f"nothing listens on port {port}; the server's output is above")


def free_port() -> int:
    """Return a port of loopback that is not in use now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
