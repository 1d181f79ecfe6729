"""Applications on `@fanway/client`, the TypeScript library: all of one process of Node."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self

from tests.chaos.history import History
from tests.chaos.library.application import (
    FIRST_TOKEN_SECONDS,
    LOUNGE,
    RETRY_SECONDS,
    TOKEN_SECONDS,
    WAKE_SECONDS,
    ApplicationOptions,
    LibraryPublish,
    ObservedChannels,
)
from tests.chaos.publisher import publish_data
from tests.e2e.clients import TIMEOUT_SECONDS
from tests.e2e.gateway import KEY, SECRET

PACKAGE = Path(__file__).parents[3] / "clients" / "typescript"

OWN_RESOURCES = frozenset({"PipeWrap", "TTYWrap", "FSReqCallback"})
"""What Node itself keeps open: its standard streams."""

LINE_BYTES = 1024 * 1024


@cache
def bundled(target: Path) -> Path:
    """Return the program of test/chaos/applications.ts with the library in it, as *target*."""
    subprocess.run(
        [
            str(PACKAGE / "node_modules" / ".bin" / "esbuild"),
            "test/chaos/applications.ts",
            "--bundle",
            "--platform=node",
            "--format=cjs",
            "--log-level=warning",
            f"--outfile={target}",
        ],
        cwd=PACKAGE,
        check=True,
    )
    return target


class NodeApplication:
    """One client of the library, in the process of `NodeApplications`."""

    def __init__(self, options: ApplicationOptions, process: "NodeApplications", history: History) -> None:
        self.name = options.name
        self.channels = options.channels
        self.observed = ObservedChannels(options, history)
        self._process = process

    async def publish(self, channel: str, name: str, size: int) -> None:
        """Publish the data of the publish *name* through the library, and record the result."""
        await self._process.publish(self.name, channel, name, size)

    async def present(self) -> set[str]:
        """Return the connections that it sees in `LOUNGE`."""
        return set((await self._process.ask("present", self.name))["connections"])

    async def tokens(self) -> int:
        """Return how often it was asked for a token."""
        return int((await self._process.ask("tokens", self.name))["count"])


class NodeApplications:
    """A process of Node with the library, and what its applications print."""

    def __init__(self, process: asyncio.subprocess.Process, history: History) -> None:
        self._process = process
        self._history = history
        self._answers: dict[tuple[str, str], asyncio.Future[dict[str, Any]]] = {}
        self._resources: list[str] | None = None
        """What kept the process running when nothing was left to do."""
        self.applications: dict[str, NodeApplication] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, home: Path, options: Sequence[ApplicationOptions], history: History
    ) -> AsyncIterator[Self]:
        """Run one application for each of *options*; at the end the process must end by itself.

        Node ends when nothing waits any more: a socket or a timer that the library leaves keeps it running.
        """
        setup = {
            "applications": [
                {
                    "name": each.name,
                    "urls": [f"ws://127.0.0.1:{port}/v1/ws" for port in each.ports],
                    "channels": list(each.channels),
                    "stateUrls": [f"http://127.0.0.1:{port}" for port in each.state_ports]
                    if each.loads_state
                    else [],
                }
                for each in options
            ],
            "secret": SECRET,
            "pushKey": KEY,
            "lounge": LOUNGE,
            "firstTokenSeconds": FIRST_TOKEN_SECONDS,
            "tokenSeconds": TOKEN_SECONDS,
            "retryMs": RETRY_SECONDS * 1000,
            "wakeMs": WAKE_SECONDS * 1000,
        }
        program = await asyncio.to_thread(bundled, home / "applications.cjs")
        with (home / "node.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                "node", str(program), json.dumps(setup),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, limit=LINE_BYTES,
                env=dict(os.environ),
            )  # fmt: skip
        node = cls(process, history)
        for each in options:
            application = node.applications[each.name] = NodeApplication(each, node, history)
            for channel in each.channels:
                application.observed[channel].on_requested()
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(node._read())
                yield node
                node._send({"do": "close"})
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await reading
                    status = await process.wait()
                assert status == 0, (home / "node.log").read_text()
                assert node._resources is not None, "the process did not run to its end"
                assert OWN_RESOURCES.issuperset(node._resources), node._resources
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def publish(self, client: str, channel: str, name: str, size: int) -> None:
        """Let *client* publish the data of the publish *name*, and record the result."""
        attempt = LibraryPublish(self._history, channel, name)
        answer = await self._ask(
            ("published", name),
            {
                "do": "publish",
                "client": client,
                "channel": channel,
                "publish": name,
                "data": publish_data(name, size),
                "timeout": TIMEOUT_SECONDS * 1000,
            },
        )
        if "error" in answer:
            attempt.on_failed(answer["error"])
        else:
            attempt.on_published(answer.get("id", ""))

    async def ask(self, what: str, client: str) -> dict[str, Any]:
        """Return the answer of *client* to the request *what*."""
        return await self._ask((what, client), {"do": what, "client": client})

    async def _ask(self, key: tuple[str, str], request: dict[str, Any]) -> dict[str, Any]:
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[key] = answer
        self._send(request)
        return await answer

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._on_line(json.loads(line))

    def _on_line(self, line: dict[str, Any]) -> None:
        event = line["event"]
        if event == "ended":
            self._resources = line["resources"]
            return
        if event in ("published", "present", "tokens"):
            key = (event, line["publish" if event == "published" else "client"])
            self._answers.pop(key).set_result(line)
            return
        application = self.applications[line["client"]]
        observed = application.observed[line["channel"]]
        match event:
            case "position":
                observed.on_position(line.get("position"))
            case "loaded":
                observed.on_loaded(line["position"])
            case "gap":
                observed.on_gap(line["reason"], line.get("position"))
            case "message":
                observed.on_message(line.get("id"), line["data"], line.get("before"))
        application.observed.on_changed()
