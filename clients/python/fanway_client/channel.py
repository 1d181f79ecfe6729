"""What the application holds of a channel: listeners, an `async for` loop, publish, presence, history."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self
from weakref import WeakSet

from fanway_client.errors import OVERFLOW, FanwayError
from fanway_client.publisher import Published
from fanway_client.subscription import (
    ChannelOptions,
    Map,
    Member,
    Message,
    Sink,
    Subscription,
    SubscriptionState,
    member_of,
    message_of,
)

BUFFER = 1_000
"""Messages that wait for a slow `async for` loop, before it ends with `overflow`."""

Listener = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Presence:
    """Who is in a channel."""

    connections: int
    users: int
    members: Sequence[Member]
    truncated: bool = False
    """Whether *members* does not have all of them."""


class ChannelPresence:
    """Asks who is in a channel; `LivePresence` keeps a list of it."""

    __slots__ = ("_channel", "_owner")

    def __init__(self, channel: str, owner: ChannelOwner) -> None:
        self._channel = channel
        self._owner = owner

    async def get(self) -> Presence:
        """Return who is here now; needs a subscription."""
        reply = await self._owner.request({"type": "presence", "channel": self._channel, "members": True})
        members = [member_of(member) for member in reply.get("members", ())]
        return Presence(reply["connections"], reply["users"], members, bool(reply.get("truncated")))


class ChannelOwner(Protocol):
    """What a handle needs of its client."""

    def acquire(self, channel: str, options: ChannelOptions, sink: Sink) -> Subscription:
        """Return the subscription of *channel*, with *sink* attached."""

    def release(self, subscription: Subscription, sink: Sink) -> None:
        """Detach *sink*."""

    async def publish(self, channel: str, data: Any, *, key: str | None, timeout: float) -> Published:
        """Publish."""

    async def request(self, command: Map) -> Map:
        """Return the reply to *command*."""

    def report(self, error: Exception) -> None:
        """Report an error that no call returns."""


class Channel:
    """One handle on a channel. All handles of a name share one subscription.

    It begins with the first listener or `async for` loop, and ends after the last.
    """

    def __init__(
        self, name: str, options: ChannelOptions, owner: ChannelOwner, *, buffer: int = BUFFER
    ) -> None:
        self.name = name
        self._options = options
        self._owner = owner
        self._buffer = buffer
        self._listeners: dict[str, list[Listener]] = {}
        self._loops: WeakSet[MessageLoop] = WeakSet()
        """A loop that was left is no longer referred to, and ends."""
        self._subscription: Subscription | None = None

    def __repr__(self) -> str:
        return f"<Channel {self.name} {self.state}>"

    @property
    def state(self) -> SubscriptionState:
        """`idle`, `pending`, `live` or `gone`."""
        return "idle" if self._subscription is None else self._subscription.state

    @property
    def position(self) -> str | None:
        """The id of the last message that every listener has handled."""
        return None if self._subscription is None else self._subscription.position

    def on(self, type: str, listener: Listener) -> Callable[[], None]:
        """Call *listener* for each event; return a function that ends it. Subscribes.

        Args:
            type: `message` (`Message`), `gap` (`Gap`), `state` (`ChannelState`), and with the option
                `presence`: `members` (a list of `Member`), `join`, `leave`, `update` (`Member`).
            listener: Must not block. If it raises, the error is reported, and the next event arrives.
        """
        listeners = self._listeners.setdefault(type, [])
        listeners.append(listener)
        self._hold()

        def off() -> None:
            if listener in listeners:
                listeners.remove(listener)
                self._release_unused()

        return off

    def __aiter__(self) -> AsyncIterator[Message[Any]]:
        return self.messages()

    def messages(self) -> MessageLoop:
        """Return the messages from now on.

        The loop ends with `close`, or raises `FanwayError`: `overflow` if it is too slow, or why the channel
        is gone.
        """
        loop = MessageLoop(self._buffer, self._on_loop_end)
        self._loops.add(loop)
        self._hold()
        if self._subscription is not None and self._subscription.state == "gone":
            loop.end(self._subscription.error)
        return loop

    async def publish(self, data: Any, *, key: str | None = None, timeout: float = 30.0) -> Published:
        """Publish *data*; return its receipt.

        It is sent when there is a connection, and again under the same key after a lost one, but it is
        visible at most once.

        Raises:
            FanwayError: `timeout` or `queue_full` (not published), `uncertain` (may have been published), or
                the gateway's code.
        """
        return await self._owner.publish(self.name, data, key=key, timeout=timeout)

    @property
    def presence(self) -> ChannelPresence:
        """Who is in the channel."""
        return ChannelPresence(self.name, self._owner)

    async def history(
        self, *, since: str | None = None, reverse: bool = False, page_size: int | None = None
    ) -> AsyncIterator[Message[Any]]:
        """Yield the messages that the channel keeps: the oldest first, or the newest with *reverse*."""
        after = since
        while True:
            options = {"limit": page_size, "since": after, "reverse": reverse or None}
            given = {name: value for name, value in options.items() if value is not None}
            page = (await self._owner.request({"type": "history", "channel": self.name, **given}))["messages"]
            for push in page:
                yield message_of(push)
            if not page:
                return
            after = page[-1]["message"]

    def close(self) -> None:
        """Let go of the channel: listeners are removed, loops end. The handle can be used again."""
        for loop in tuple(self._loops):
            loop.end()
        self._listeners.clear()
        self._release_unused()

    # ------------------------------------------------------------ what the subscription calls

    def on_message(self, message: Message[Any]) -> None:
        for loop in tuple(self._loops):
            loop.push(message)
        self._emit("message", message)

    def on_event(self, type: str, event: Any) -> None:
        self._emit(type, event)
        if type == "state" and event.state == "gone":
            for loop in tuple(self._loops):
                loop.end(event.error)

    def misses_gaps(self) -> bool:
        return not self._listeners.get("gap") and bool(self._listeners.get("message") or len(self._loops))

    def _emit(self, type: str, event: Any) -> None:
        for listener in tuple(self._listeners.get(type, ())):
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 (whatever the application raises)
                self._owner.report(error)

    def _hold(self) -> None:
        if self._subscription is None:
            self._subscription = self._owner.acquire(self.name, self._options, self)

    def _on_loop_end(self, loop: MessageLoop) -> None:
        self._loops.discard(loop)
        self._release_unused()

    def _release_unused(self) -> None:
        subscription = self._subscription
        if subscription is not None and not len(self._loops) and not any(self._listeners.values()):
            self._subscription = None
            self._owner.release(subscription, self)


class MessageLoop:
    """The messages of one `async for` loop; close it with `aclose`, or leave `async with`."""

    def __init__(self, limit: int, on_end: Callable[[MessageLoop], None]) -> None:
        self._limit = limit
        self._on_end = on_end
        self._waiting: deque[Message[Any]] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self._error: FanwayError | None = None

    def __aiter__(self) -> MessageLoop:
        return self

    async def __anext__(self) -> Message[Any]:
        while not self._waiting:
            if self._ended:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the loop, and forget what waits."""
        self._waiting.clear()
        self.end()

    def __del__(self) -> None:
        self.end()

    def push(self, message: Message[Any]) -> None:
        """Add a message; end the loop if too many wait."""
        if len(self._waiting) >= self._limit:
            return self.end(FanwayError(OVERFLOW, f"{self._limit} messages waited for a slow loop"))
        self._waiting.append(message)
        return self._arrived.set()

    def end(self, error: FanwayError | None = None) -> None:
        """End the loop after the messages that wait, with *error* if there is one."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        self._on_end(self)
        self._arrived.set()
