"""A gateway in a process of its own, to be killed, drained, paused and started again on the same ports."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from tests.chaos.ports import reserved
from tests.e2e.gateway import FANWAY, HEADERS, SECRET, TIMEOUT_SECONDS, GatewayProcess


class NodeProcess:
    """A `fanway serve` on two ports that stay reserved for it, whether it runs or not."""

    def __init__(self, home: Path, public: int, internal: int, settings: dict[str, str]) -> None:
        self.public = public
        """The port of the public listener."""
        self.internal = internal
        """The port of the internal listener."""
        self._home = home
        self._settings = settings
        self._starts = 0
        self._popen: subprocess.Popen[str] | None = None
        self._process: GatewayProcess | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, home: Path, config: str = "", **settings: str) -> AsyncIterator[Self]:
        """Run one in dev mode, with *config* as file and *settings* as SECTION__KEY; it must exit cleanly."""
        async with cls.prepare(home, config, **settings) as node:
            await node.start()
            yield node

    @classmethod
    @asynccontextmanager
    async def prepare(cls, home: Path, config: str = "", **settings: str) -> AsyncIterator[Self]:
        """As `open`, without starting it; where it runs at the end, it must exit cleanly."""
        (home / "gateway.toml").write_text(config)
        with reserved() as public, reserved() as internal:
            node = cls(home, public, internal, settings)
            try:
                yield node
                if node.running:
                    await node.drain()
            finally:
                node.close()

    @property
    def name(self) -> str:
        """The name of the node, where a setting gives it one."""
        return self._settings.get("NODE__NAME", "")

    @property
    def running(self) -> bool:
        """Whether it was started and not ended."""
        return self._popen is not None

    @property
    def process(self) -> GatewayProcess:
        """The process that was started last."""
        assert self._process is not None, "the node was never started"
        return self._process

    async def newest_positions(self, channels: Sequence[str]) -> dict[str, str]:
        """Return the newest position of each of *channels*, which must have history."""
        pages = await self._get([f"/v1/channels/{channel}/history?limit=0" for channel in channels])
        return {page["channel"]: page["position"] for page in pages}

    async def present(self, channels: Sequence[str]) -> set[tuple[str, str]]:
        """Return the members of *channels*, as pairs of channel and connection."""
        pages = await self._get([f"/v1/channels/{channel}/presence?members=true" for channel in channels])
        return {(page["channel"], member["connection"]) for page in pages for member in page["members"]}

    async def _get(self, paths: Sequence[str]) -> list[dict[str, Any]]:
        """Return the answer to each of *paths*, once the node's broker is ready."""
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{self.internal}",
                headers=HEADERS,
                timeout=TIMEOUT_SECONDS,
                trust_env=False,
                verify=False,
            ) as http,
        ):
            answers = []
            for path in paths:
                while (answer := await http.get(path)).status_code == 503:  # noqa: ASYNC110 (no notification exists)
                    await asyncio.sleep(0.1)
                answers.append(answer.raise_for_status().json())
            return answers

    async def start(self) -> None:
        """Start it; it listens when this returns. The event loop is not blocked meanwhile."""
        self._starts += 1
        self._process = await asyncio.to_thread(self._spawn, self._home / f"stderr-{self._starts}.log")

    def _spawn(self, log_path: Path) -> GatewayProcess:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FANWAY_")}
        settings = {f"FANWAY_{name}": value for name, value in self._settings.items()}
        ports = ["--port", str(self.public), "--internal-port", str(self.internal)]
        with log_path.open("w") as log:
            self._popen = subprocess.Popen(
                [FANWAY, "serve", "--dev", "--config", str(self._home / "gateway.toml"), *ports],
                cwd=self._home,
                env={**inherited, "FANWAY_AUTH__SECRET": SECRET, **settings},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return GatewayProcess(self._popen, log_path)

    async def drain(self) -> None:
        """End it with SIGTERM, as a deploy does; it must exit with 0."""
        await self._end(signal.SIGTERM)
        assert self.process.popen.returncode == 0, self.process.stderr

    async def kill(self) -> None:
        """End it with SIGKILL, as the kernel does when memory is exhausted."""
        await self._end(signal.SIGKILL)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Stop it with SIGSTOP, with all its sockets open; it continues at the end."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it if it runs."""
        popen, self._popen = self._popen, None
        if popen is not None:
            with popen:
                popen.kill()

    async def _end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self.process.wait_exited()
        self.close()
        assert "Traceback" not in self.process.stderr, self.process.stderr

    def __repr__(self) -> str:
        return f"<NodeProcess :{self.public} :{self.internal} started {self._starts} times>"
