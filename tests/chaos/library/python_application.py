"""An application on `fanway_client`, the Python library."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any, Self

import httpx
from fanway_client import Fanway, FanwayError, LivePresence
from fanway_client._protocol.client import BackoffBounds
from fanway_client.admin import mint_token

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
from tests.chaos.library.observed_channel import ObservedChannel
from tests.chaos.publisher import publish_data
from tests.e2e.clients import TIMEOUT_SECONDS
from tests.e2e.gateway import HEADERS, SECRET


class PythonApplication:
    """One client of the library, in this process."""

    def __init__(
        self, options: ApplicationOptions, fanway: Fanway, tokens: "Tokens", history: History, random: Random
    ) -> None:
        self.name = options.name
        self.channels = options.channels
        self._options = options
        self._fanway = fanway
        self._history = history
        self._random = random
        self.observed = ObservedChannels(options, history)
        self._presence = LivePresence(fanway, LOUNGE)
        self.presence_log: list[str] = []
        """What it saw of `LOUNGE`, and when: printed if the list is wrong at the end."""
        self._tokens = tokens

    @classmethod
    @asynccontextmanager
    async def open(cls, options: ApplicationOptions, history: History, random: Random) -> AsyncIterator[Self]:
        """Run it; at the end the library is closed, and nothing of it is left in the event loop."""
        before = asyncio.all_tasks()
        urls = [f"ws://127.0.0.1:{port}/v1/ws" for port in options.ports]
        tokens = Tokens(options.name)
        async with Fanway(
            urls,
            get_token=tokens.get,
            backoff=BackoffBounds(first_seconds=0.02, longest_seconds=RETRY_SECONDS),
        ) as fanway:
            application = cls(options, fanway, tokens, history, random)
            application._listen()
            waking = asyncio.create_task(application._wake())
            try:
                yield application
            finally:
                waking.cancel()
                await asyncio.wait([waking])
        left = {task for task in asyncio.all_tasks() - before if "fanway_client" in repr(task.get_coro())}
        assert not left, left

    async def publish(self, channel: str, name: str, size: int) -> None:
        """Publish the data of the publish *name* through the library, and record the result."""
        publish = LibraryPublish(self._history, channel, name)
        try:
            receipt = await self._fanway.channel(channel).publish(
                publish_data(name, size), timeout=TIMEOUT_SECONDS
            )
        except FanwayError as error:
            publish.on_failed(error.code)
        else:
            publish.on_published(receipt.id or "")

    async def present(self) -> set[str]:
        """Return the connections that it sees in `LOUNGE`."""
        return set(self._presence.members)

    async def tokens(self) -> int:
        """Return how often it was asked for a token."""
        return self._tokens.count

    def _listen(self) -> None:
        for name in self.channels:
            self.observed[name].on_requested()
            self._listen_to(name, self.observed[name])
        lounge = self._fanway.channel(LOUNGE, presence=True)
        for event in ("members", "join", "leave", "gap", "state"):
            lounge.on(event, partial(self._log_presence, event))

    def _log_presence(self, event: str, seen: Any) -> None:
        node = "" if self._fanway.info is None else self._fanway.info.node
        self.presence_log.append(f"{time.time():.3f} {node} {event} {seen}")

    def _listen_to(self, name: str, observed: ObservedChannel) -> None:
        channel = self._fanway.channel(
            name, load_state=self._state_of(observed) if self._options.loads_state else None
        )

        def on_message(message: Any) -> None:
            observed.on_message(message.id, message.data, channel.position)
            self.observed.on_changed()

        def on_gap(gap: Any) -> None:
            observed.on_gap(gap.reason, channel.position)
            self.observed.on_changed()

        def on_state(change: Any) -> None:
            if change.state == "live":
                # The position follows in this turn of the event loop.
                asyncio.get_running_loop().call_soon(on_live)

        def on_live() -> None:
            if channel.state == "live":
                observed.on_position(channel.position)
                self.observed.on_changed()

        channel.on("state", on_state)
        channel.on("gap", on_gap)
        channel.on("message", on_message)

    def _state_of(self, observed: ObservedChannel) -> Any:
        async def load(request: Any) -> str:
            for port in itertools.cycle(self._options.state_ports):
                async with httpx.AsyncClient(headers=HEADERS, timeout=2.0, trust_env=False) as http:
                    url = f"http://127.0.0.1:{port}/v1/channels/{request.channel}/history?limit=0"
                    try:
                        answer = (await http.get(url)).raise_for_status().json()
                    except httpx.HTTPError:
                        await asyncio.sleep(0.1)
                        continue
                observed.on_loaded(answer["position"])
                self.observed.on_changed()
                return str(answer["position"])
            raise AssertionError("there is no internal listener")

        return load

    async def _wake(self) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(0, 2 * WAKE_SECONDS))
            self._fanway.wake()


class Tokens:
    """Mints the tokens of one user."""

    def __init__(self, user: str) -> None:
        self.count = 0
        """How many it has minted."""
        self._user = user

    def get(self, _: str) -> str:
        """Return another token."""
        self.count += 1
        seconds = FIRST_TOKEN_SECONDS if self.count == 1 else TOKEN_SECONDS
        return mint_token(SECRET, self._user, ttl=seconds)
