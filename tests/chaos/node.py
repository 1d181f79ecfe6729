"""A gateway in a process of its own, to be killed, drained, stopped and started again where it was."""

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
from tests.e2e.gateway import FANWAY, HEADERS, PATIENCE, SECRET, Served


class Node:
    """A `fanway serve` on two ports that are its own, whether it runs or not."""

    def __init__(self, home: Path, public: int, internal: int, settings: dict[str, str]) -> None:
        self.public = public
        self.internal = internal
        self._home = home
        self._settings = settings
        self._starts = 0
        self._process: subprocess.Popen[str] | None = None
        self._served: Served | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, home: Path, config: str = "", **settings: str) -> AsyncIterator[Self]:
        """Run one in dev mode, with *config* as file and *settings* as SECTION__KEY; it must end well."""
        async with cls.placed(home, config, **settings) as node:
            await node.start()
            yield node

    @classmethod
    @asynccontextmanager
    async def placed(cls, home: Path, config: str = "", **settings: str) -> AsyncIterator[Self]:
        """Have one that is to be started; where it runs at the end, it must end well."""
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
        """What it calls itself, where that is set."""
        return self._settings.get("NODE__NAME", "")

    @property
    def running(self) -> bool:
        """Whether it was started and not ended."""
        return self._process is not None

    @property
    def served(self) -> Served:
        """The process that runs now."""
        assert self._served is not None, "the node does not run"
        return self._served

    async def newest(self, channels: Sequence[str]) -> dict[str, str]:
        """Return where each of *channels*, which keep a history, stands."""
        told = await self._look([f"/v1/channels/{channel}/history?limit=0" for channel in channels])
        return {each["channel"]: each["position"] for each in told}

    async def present(self, channels: Sequence[str]) -> set[tuple[str, str]]:
        """Return who is in *channels*: each channel and connection."""
        told = await self._look([f"/v1/channels/{channel}/presence?members=true" for channel in channels])
        return {(each["channel"], member["connection"]) for each in told for member in each["members"]}

    async def _look(self, paths: Sequence[str]) -> list[dict[str, Any]]:
        """Return what each of *paths* answers, once its broker is there."""
        async with (
            asyncio.timeout(PATIENCE),
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{self.internal}",
                headers=HEADERS,
                timeout=PATIENCE,
                trust_env=False,
                verify=False,
            ) as http,
        ):
            told = []
            for path in paths:
                while (answer := await http.get(path)).status_code == 503:  # noqa: ASYNC110 (who is not ready tells nobody when)
                    await asyncio.sleep(0.1)
                told.append(answer.raise_for_status().json())
            return told

    async def start(self) -> None:
        """Start it; it listens when this returns. Clients go on meanwhile."""
        self._starts += 1
        self._served = await asyncio.to_thread(self._serve, self._home / f"stderr-{self._starts}.log")

    def _serve(self, errors: Path) -> Served:
        others = {name: value for name, value in os.environ.items() if not name.startswith("FANWAY_")}
        ours = {f"FANWAY_{name}": value for name, value in self._settings.items()}
        ports = ["--port", str(self.public), "--internal-port", str(self.internal)]
        with errors.open("w") as log:
            self._process = subprocess.Popen(
                [FANWAY, "serve", "--dev", "--config", str(self._home / "gateway.toml"), *ports],
                cwd=self._home,
                env={**others, "FANWAY_AUTH__SECRET": SECRET, **ours},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return Served(self._process, errors)

    async def drain(self) -> None:
        """End it as a deploy does; everything must be in order."""
        await self._end(signal.SIGTERM)
        assert self.served.process.returncode == 0, self.served.stderr

    async def kill(self) -> None:
        """End it as the kernel does when memory is out."""
        await self._end(signal.SIGKILL)

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Let it stand still, with all its sockets open."""
        self.served.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.served.signal(signal.SIGCONT)

    def close(self) -> None:
        """End it whatever happens."""
        process, self._process = self._process, None
        if process is not None:
            with process:
                process.kill()

    async def _end(self, number: signal.Signals) -> None:
        self.served.signal(number)
        async with asyncio.timeout(PATIENCE):
            await self.served.gone()
        self.close()
        assert "Traceback" not in self.served.stderr, self.served.stderr

    def __repr__(self) -> str:
        return f"<Node :{self.public} :{self.internal} started {self._starts} times>"
