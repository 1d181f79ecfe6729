"""A real `redis-server` process on a free port."""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import redis

from tests.chaos.ports import reserved

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""Options of a Redis that keeps everything it acknowledged across a kill."""

START_ATTEMPTS = 5
"""Ports that are tried: a free one may be taken before the server binds it."""


class RedisServer:
    """One Redis process, which can be killed and started again; with AOF it keeps its data."""

    READY = "eady to accept connections"
    """Part of the line that it logs when it accepts connections."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Keep its files in *folder*; *options* are those of redis-server, e.g. `--appendonly`, `yes`."""
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it accepts connections, on the same port as before if it had one."""
        for _ in range(START_ATTEMPTS):
            port = self.port or free_port()
            if self._launch(port):
                self.port = port
                return
        raise AssertionError(f"redis-server does not start in {self._folder}")

    def stop(self) -> None:
        """Stop it with SIGTERM."""
        self._end("terminate")

    def kill(self) -> None:
        """Stop it with SIGKILL."""
        self._end("kill")

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """Yield a plain client, independent of the broker."""
        client: Any = redis.Redis(host="127.0.0.1", port=self.port)
        try:
            yield client
        finally:
            client.close()

    def execute(self, *command: str | bytes | float) -> Any:
        """Execute *command* and return the answer."""
        with self.client() as client:
            return client.execute_command(*command)

    def age(self, seconds: float) -> None:
        """Make all keys older by *seconds*, as if time had passed: the clock of a Redis cannot be set."""
        milliseconds = round(seconds * 1000)
        with self.client() as client:
            for key in list(client.scan_iter()):
                left = client.pttl(key)
                if b":log:" in key:
                    _age_log(client, key, milliseconds)
                if 0 <= left <= milliseconds:
                    client.delete(key)
                elif left > 0:
                    client.pexpire(key, left - milliseconds)

    def _launch(self, port: int) -> bool:
        program = shutil.which("redis-server")
        assert program is not None, "these tests need redis-server: apt-get install redis-server"
        self._process = subprocess.Popen(
            [program, *self._arguments(port), *self._options],
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment(),
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if self.READY in line:
                return True
        self.stop()
        return False

    def _environment(self) -> Mapping[str, str] | None:
        """Return the environment of the process; None for that of the tests."""
        return None

    def _arguments(self, port: int) -> list[str]:
        where = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        return [*where, "--save", "", "--daemonize", "no"]

    def _end(self, how: str) -> None:
        process, self._process = self._process, None
        if process is not None:
            getattr(process, how)()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@contextlib.contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Run a server until the end of the block; its port stays reserved while it is killed."""
    with reserved() as port:
        server = RedisServer(folder, *options)
        server.port = port
        try:
            server.start()
            yield server
        finally:
            server.kill()


def _age_log(client: Any, key: bytes, milliseconds: int) -> None:
    entries = client.xrange(key)
    left = client.pttl(key)
    client.delete(key)
    for id, fields in entries:
        client.xadd(key, {**fields, b"x": int(fields[b"x"]) - milliseconds}, id=id)
    client.pexpire(key, left)


def free_port() -> int:
    """Return a port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
