"""The client for code without an event loop: `with FanwaySync(url) as fanway`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from fanway_client.channel import Channel, Presence
from fanway_client.client import Fanway, Statistics
from fanway_client.connection import State
from fanway_client.publisher import Published
from fanway_client.subscription import Message

T = TypeVar("T")


class FanwaySync:
    """`Fanway` on an event loop in a thread of its own; takes the same arguments. Threads may share one.

    with FanwaySync("https://rt.example.com", get_token=get_token) as fanway:
        for message in fanway.channel("chat:1"):
            print(message.data)
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._make: Callable[[], Fanway] = lambda: Fanway(*args, **options)
        self._ready = threading.Event()
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="fanway-client", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            self._thread.join()
            raise self._failed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def state(self) -> State:
        """As `Fanway.state`."""
        return self._fanway.state

    def on(self, type: str, listener: Callable[[Any], object]) -> None:
        """As `Fanway.on`; *listener* is called in the thread of the client."""
        self._loop.call_soon_threadsafe(self._fanway.on, type, listener)

    def set_token(self, token: str | None) -> None:
        """As `Fanway.set_token`."""
        self._loop.call_soon_threadsafe(self._fanway.set_token, token)

    def stats(self) -> Statistics:
        """As `Fanway.stats`."""

        async def read() -> Statistics:
            return self._fanway.stats()

        return self.call(read())

    def channel(self, name: str, **options: Any) -> ChannelSync:
        """Return a handle on *name*; options as of `Fanway.channel`."""
        return ChannelSync(self, self._fanway.channel(name, **options))

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of *work*, which runs on the loop of the client."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 (raised by __enter__)
            self._failed = error
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self._make() as self._fanway:
            self._ready.set()
            await self._stop.wait()


class ChannelSync:
    """`Channel` for code without an event loop."""

    def __init__(self, client: FanwaySync, channel: Channel) -> None:
        self._client = client
        self._channel = channel

    def __iter__(self) -> Iterator[Message[Any]]:
        """Yield the messages from now on; closing the iterator ends the subscription."""
        messages = self._client.call(self._begin())
        try:
            while True:
                try:
                    yield self._client.call(messages.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            self._client.call(messages.aclose())

    def publish(self, data: Any, *, key: str | None = None, timeout: float = 30.0) -> Published:
        """As `Channel.publish`."""
        return self._client.call(self._channel.publish(data, key=key, timeout=timeout))

    def presence(self) -> Presence:
        """As `ChannelPresence.get`."""
        return self._client.call(self._channel.presence.get())

    def history(self, **options: Any) -> list[Message[Any]]:
        """Return the messages that the channel keeps; options as of `Channel.history`."""

        async def read() -> list[Message[Any]]:
            return [message async for message in self._channel.history(**options)]

        return self._client.call(read())

    async def _begin(self) -> Any:
        return self._channel.messages()
