"""An application on `fanway_client`, the Python library."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Self

import httpx
from fanway_client import Fanway, FanwayError, LivePresence
from fanway_client._protocol.client import BackoffBounds
from fanway_client.admin import mint_token

from tests.chaos.history import History, PublishAttempted, PublishResolved, PublishResult
from tests.chaos.library.application import (
    LOUNGE,
    RETRY_SECONDS,
    TOKEN_SECONDS,
    WAKE_SECONDS,
    ApplicationOptions,
)
from tests.chaos.library.observed_channel import ObservedChannel
from tests.chaos.publisher import publish_data
from tests.e2e.clients import TIMEOUT_SECONDS
from tests.e2e.gateway import HEADERS, SECRET

NOT_PUBLISHED = frozenset({"timeout", "queue_full"})
"""Codes after which no client may see the message; after any other error nobody knows."""


class PythonApplication:
    """One client of the library, in this process."""

    def __init__(self, options: ApplicationOptions, fanway: Fanway, history: History, random: Random) -> None:
        self.name = options.name
        self.channels = options.channels
        self._options = options
        self._fanway = fanway
        self._history = history
        self._random = random
        self._observed = {
            channel: ObservedChannel(options.name, channel, history) for channel in options.channels
        }
        self._changed = asyncio.Event()
        self._presence = LivePresence(fanway, LOUNGE)

    @classmethod
    @asynccontextmanager
    async def open(cls, options: ApplicationOptions, history: History, random: Random) -> AsyncIterator[Self]:
        """Run it; at the end the library is closed, and nothing of it is left in the event loop."""
        before = asyncio.all_tasks()
        urls = [f"ws://127.0.0.1:{port}/v1/ws" for port in options.ports]
        async with Fanway(
            urls,
            get_token=lambda _: mint_token(SECRET, options.name, ttl=TOKEN_SECONDS),
            backoff=BackoffBounds(first_seconds=0.02, longest_seconds=RETRY_SECONDS),
        ) as fanway:
            application = cls(options, fanway, history, random)
            application._listen()
            waking = asyncio.create_task(application._wake())
            try:
                yield application
            finally:
                waking.cancel()
                await asyncio.wait([waking])
        left = {task for task in asyncio.all_tasks() - before if "fanway_client" in repr(task.get_coro())}
        assert not left, left

    async def wait_for_positions(self, positions: Mapping[str, str]) -> None:
        """Wait until it has seen everything in its channels up to *positions*."""
        while not all(
            observed.has_reached(positions.get(channel, "0")) for channel, observed in self._observed.items()
        ):
            self._changed.clear()
            await self._changed.wait()

    async def publish(self, channel: str, name: str, size: int) -> None:
        """Publish the data of the publish *name* through the library, and record the result."""
        self._history.record(PublishAttempted(name, channel))
        try:
            receipt = await self._fanway.channel(channel).publish(
                publish_data(name, size), timeout=TIMEOUT_SECONDS
            )
        except FanwayError as error:
            result = PublishResult.FAILED if error.code in NOT_PUBLISHED else PublishResult.UNKNOWN
            self._history.record(PublishResolved(name, result))
        else:
            self._history.record(PublishResolved(name, PublishResult.OK, receipt.id or ""))

    async def present(self) -> set[str]:
        """Return the connections that it sees in `LOUNGE`."""
        return set(self._presence.members)

    def _listen(self) -> None:
        for name, observed in self._observed.items():
            observed.on_requested()
            self._listen_to(name, observed)

    def _listen_to(self, name: str, observed: ObservedChannel) -> None:
        channel = self._fanway.channel(
            name, load_state=self._state_of(observed) if self._options.loads_state else None
        )

        def on_message(message: Any) -> None:
            observed.on_message(message.id, message.data, channel.position)
            self._changed.set()

        def on_gap(gap: Any) -> None:
            if not self._options.loads_state:
                observed.on_gap(gap.reason, channel.position)
                self._changed.set()

        def on_state(change: Any) -> None:
            if change.state == "live" and not self._options.loads_state:
                # The position follows in this turn of the event loop.
                asyncio.get_running_loop().call_soon(on_live)

        def on_live() -> None:
            if channel.state == "live":
                observed.on_position(channel.position)
                self._changed.set()

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
                self._changed.set()
                return str(answer["position"])
            raise AssertionError("there is no internal listener")

        return load

    async def _wake(self) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(0, 2 * WAKE_SECONDS))
            self._fanway.wake()
