"""Run an example for a test: its gateway, a proxy in front of the gateway, and its backend."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from fanway_client.admin import FanwayAdmin

from tests.clients.python.proxy import Proxy
from tests.e2e.gateway import SECRET, TIMEOUT_SECONDS, GatewayProcess, gateway_process

EXAMPLES = Path(__file__).parents[2] / "examples"
BACKENDS = {"chat": "chat_backend", "notifications": "notifications_backend", "llm_stream": "llm_backend"}
PUSH_KEY = "a-push-key-of-the-tests"


class GatewayRoad:
    """What is between the page and the gateway: a proxy, on a thread of its own."""

    def __init__(self, proxy: Proxy, loop: asyncio.AbstractEventLoop) -> None:
        self._proxy = proxy
        self._loop = loop
        self.url = proxy.url.replace("ws://", "http://").removesuffix("/v1/ws")

    def block(self) -> None:
        """Cut every connection, and refuse new ones."""
        self._proxy.refusing = True
        self._call(self._proxy.cut)

    def unblock(self) -> None:
        """Let connections through again."""
        self._proxy.refusing = False

    def _call(self, function: Callable[[], None]) -> None:
        async def call() -> None:
            function()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(TIMEOUT_SECONDS)


@contextmanager
def road_to(port: int) -> Iterator[GatewayRoad]:
    """Run a proxy to *port* on a thread of its own."""
    roads: list[GatewayRoad] = []
    started, ending = Event(), asyncio.Event()

    @asynccontextmanager
    async def proxy() -> AsyncIterator[None]:
        async with Proxy.to(port) as running:
            roads.append(GatewayRoad(running, asyncio.get_running_loop()))
            yield

    async def serve() -> None:
        async with proxy():
            started.set()
            await ending.wait()

    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(TIMEOUT_SECONDS)
        yield roads[0]
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(TIMEOUT_SECONDS)
        loop.close()


@dataclass(frozen=True)
class Example:
    """An example that runs."""

    url: str
    """Of its page."""
    gateway: GatewayProcess
    road: GatewayRoad

    def admin(self) -> FanwayAdmin:
        """Return the push API of its gateway, to be used in a `with`."""
        return FanwayAdmin(f"http://127.0.0.1:{self.gateway.internal}", PUSH_KEY)


@contextmanager
def example(name: str, home: Path, **environment: str) -> Iterator[Example]:
    """Run the example *name*, with *environment* for its backend."""
    folder, home = EXAMPLES / name, home / name
    home.mkdir(exist_ok=True)
    log = home / "backend.log"
    listening = socket.create_server(("127.0.0.1", 0))
    page = f"http://127.0.0.1:{listening.getsockname()[1]}"
    settings = {"PUSH__KEYS": PUSH_KEY, "LISTEN__PUBLIC__ALLOWED_ORIGINS": page}
    config = (folder / "gateway.toml").read_text()
    with (
        listening,
        log.open("w") as written,
        gateway_process(home, config, dev=False, **settings) as gateway,
        road_to(gateway.public) as road,
        subprocess.Popen(
            [
                sys.executable, "-m", "uvicorn", f"{BACKENDS[name]}:create_app", "--factory",
                "--fd", str(listening.fileno()), "--log-level", "warning",
                "--timeout-graceful-shutdown", "5",
            ],
            cwd=home,
            stderr=written,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(EXAMPLES), str(folder)]),
                "GATEWAY_URL": road.url,
                "GATEWAY_PUSH_URL": f"http://127.0.0.1:{gateway.internal}",
                "GATEWAY_PUSH_KEY": PUSH_KEY,
                "GATEWAY_SECRET": SECRET,
                **environment,
            },
            pass_fds=[listening.fileno()],
        ) as backend,
    ):  # fmt: skip
        try:
            yield Example(page, gateway, road)
            backend.terminate()
            backend.wait(TIMEOUT_SECONDS)
            assert "Exception in ASGI application" not in log.read_text(), log.read_text()
        finally:
            backend.kill()
