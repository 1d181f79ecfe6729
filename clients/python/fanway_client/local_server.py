"""A gateway of your own for tests: `fanway serve` in a process that ends with the one that started it."""

from __future__ import annotations

import os
import re
import secrets
import selectors
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Self

from fanway_client.admin import AsyncFanwayAdmin, FanwayAdmin, mint_token

START_SECONDS = 60.0
"""How long a gateway may take to start; on an idle machine it takes less than a second."""
STOP_SECONDS = 20.0
"""How long it may take to stop before it is killed."""

_PUBLIC = re.compile(rb"clients +ws://([^/]*:\d+)/")
_INTERNAL = re.compile(rb"backends +http://([^/]*:\d+)/")

# Replaces itself by the gateway, which gets SIGTERM when its parent ends, however that happens: the setting
# of prctl(2) survives execve. Where the parent has ended before, nobody would send it.
_LAUNCHER = """
import ctypes, os, signal, sys
parent, *arguments = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() == int(parent):
    os.execv(sys.executable, [sys.executable, "-P", "-m", "gateway", *arguments])
"""


class ServerNotInstalled(Exception):
    """The package `fanway`, which has the gateway, is not installed in this environment."""


class ServerNotStarted(Exception):
    """The gateway has ended, or does not listen in time; the message has its log."""


class LocalServer:
    """A gateway that runs on this machine, on free ports; make one with `LocalServer.start`.

    Attributes:
        url: What clients connect to: `ws://127.0.0.1:…/v1/ws`.
        push_url: What backends call: `http://127.0.0.1:…`.
        push_key: A key of the push API.
        secret: What signs tokens.
    """

    def __init__(
        self,
        url: str,
        push_url: str,
        push_key: str,
        secret: str,
        *,
        process: subprocess.Popen[bytes],
        log: Path,
    ) -> None:
        self.url = url
        self.push_url = push_url
        self.push_key = push_key
        self.secret = secret
        self.process = process
        self._log = log

    def __repr__(self) -> str:
        return f"<LocalServer url={self.url!r} push_url={self.push_url!r} pid={self.process.pid}>"

    @classmethod
    @contextmanager
    def start(
        cls, config: str | Path = "", *, dev: bool = True, environment: Mapping[str, str] | None = None
    ) -> Iterator[Self]:
        """Start a gateway; it ends with the block, or with this process.

        It ends with the thread that starts it, too, where that is not the main thread: prctl(2).

        Args:
            config: The text of its configuration, or a file. Ports, a secret and a push key are set anew.
            dev: Whether it runs in dev mode, in which everything is allowed that *config* does not forbid.
            environment: Further settings, such as `{"FANWAY_BROKER__URL": "redis://…"}`. Of this process's
                variables those that begin with FANWAY_ do not count.

        Raises:
            ServerNotInstalled: The package `fanway` is not installed.
            ServerNotStarted: The gateway has ended instead of listening; the message has its log.
        """
        _require_installed()
        secret, push_key = secrets.token_urlsafe(32), secrets.token_urlsafe(16)
        settings = {
            "FANWAY_AUTH__SECRET": secret,
            "FANWAY_PUSH__KEYS": f'["{push_key}"]',
            "FANWAY_DRAIN__TIMEOUT": "1s",
            "FANWAY_DRAIN__WINDOW": "0s",
            **(environment or {}),
        }
        # A gateway reads a configuration in its working directory, which is therefore an empty one.
        with tempfile.TemporaryDirectory(prefix="fanway-") as home:
            log = Path(home, "log")
            process = _spawn(home, log, _arguments(Path(home), config, dev=dev), settings)
            try:
                public, internal = _addresses(process, log)
                server = cls(
                    f"ws://{public}/v1/ws", f"http://{internal}", push_key, secret, process=process, log=log
                )
                yield server
            finally:
                _stop(process)

    @cached_property
    def admin(self) -> FanwayAdmin:
        """The push API, for code without an event loop; `close` closes its connections."""
        return FanwayAdmin(self.push_url, self.push_key)

    def async_admin(self) -> AsyncFanwayAdmin:
        """Return a new `AsyncFanwayAdmin`, for `async with`."""
        return AsyncFanwayAdmin(self.push_url, self.push_key)

    def mint_token(self, user: str = "test", **options: Any) -> str:
        """Return a token of *user* that this gateway accepts; the options are those of `admin.mint_token`."""
        return mint_token(self.secret, user, **options)

    def new_channel(self, namespace: str = "") -> str:
        """Return the name of a channel that nothing else uses, in *namespace*, else in the default one."""
        name = uuid.uuid4().hex
        return f"{namespace}:{name}" if namespace else name

    def log(self) -> str:
        """Return what the gateway has logged so far."""
        return self._log.read_text(errors="replace")

    @contextmanager
    def borrow(self) -> Iterator[Self]:
        """Lend the same gateway under an `admin` of its own, which is closed at the end of the block."""
        lent = type(self)(
            self.url, self.push_url, self.push_key, self.secret, process=self.process, log=self._log
        )
        try:
            yield lent
        finally:
            lent.close()

    def close(self) -> None:
        """Close the connections of `admin`; the gateway continues."""
        if "admin" in self.__dict__:
            self.admin.close()


def _require_installed() -> None:
    try:
        distribution("fanway")
    except PackageNotFoundError:
        raise ServerNotInstalled(
            "there is no gateway to start: install the package fanway, which has the command `fanway`, "
            f"into this environment ({sys.prefix})"
        ) from None


def _arguments(home: Path, config: str | Path, *, dev: bool) -> list[str]:
    arguments = ["serve", "--port", "0", "--internal-port", "0", *(["--dev"] if dev else [])]
    if isinstance(config, Path):
        return [*arguments, "--config", str(config.absolute())]
    if config:
        file = home / "fanway.toml"
        file.write_text(config)
        return [*arguments, "--config", str(file)]
    return arguments


def _spawn(
    home: str, log: Path, arguments: list[str], settings: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FANWAY_")}
    with log.open("wb") as stderr:
        return subprocess.Popen(  # noqa: S603 (the tests' own configuration)
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *arguments],
            cwd=home,
            env={**inherited, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            # Ctrl-C in a terminal goes to the tests alone, which stop the gateway after their own clients.
            start_new_session=True,
        )


def _addresses(process: subprocess.Popen[bytes], log: Path) -> tuple[str, str]:
    """Return host and port of both listeners, once the gateway has printed them."""
    assert process.stdout is not None  # noqa: S101 (it is a pipe)
    deadline, printed = time.monotonic() + START_SECONDS, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(process.stdout.fileno(), 65_536)
            printed += chunk
            public, internal = _PUBLIC.search(printed), _INTERNAL.search(printed)
            if public and internal:
                return public[1].decode(), internal[1].decode()
            if not chunk:
                process.wait(STOP_SECONDS)
                raise ServerNotStarted(
                    f"the gateway has ended with status {process.returncode} instead of starting. Its log:\n"
                    + log.read_text(errors="replace")
                )
    raise ServerNotStarted(
        f"the gateway does not listen after {START_SECONDS:g} s. Its log:\n{log.read_text(errors='replace')}"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
