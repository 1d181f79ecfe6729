"""What the application holds of a channel: listeners, an `async for` loop, publish, presence, history."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self
from weakref import WeakSet

from fanway_client.errors import OVERFLOW, FanwayError
from fanway_client.publisher import Published
from fanway_client.subscription import (
    ChannelOptions,
    Gap,
    Map,
    Mark,
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

OnSlow = Literal["raise", "drop_oldest"]
"""What follows when more messages wait than the buffer of a loop holds: `raise` ends it with `overflow`;
`drop_oldest` drops the oldest that wait, and tells a gap. With a buffer of 1 that keeps the newest only."""

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
        self,
        name: str,
        options: ChannelOptions,
        owner: ChannelOwner,
        *,
        buffer: int = BUFFER,
        on_slow: OnSlow = "raise",
    ) -> None:
        if buffer < 1:
            raise ValueError(f"buffer: expected at least 1, not {buffer}")
        if options.rewind is not None and options.rewind < 0:
            raise ValueError(f"rewind: expected 0 or more, not {options.rewind}")
        self.name = name
        self._options = options
        self._owner = owner
        self._buffer = buffer
        self._on_slow = on_slow
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
        subscription = self._hold()
        listeners.append(listener)
        if type == "message":
            subscription.on_consumer()

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
        loop = MessageLoop(self._buffer, self, on_slow=self._on_slow)
        subscription = self._hold()
        self._loops.add(loop)
        subscription.on_consumer()
        if subscription.state == "gone":
            loop.end(subscription.error)
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
        unfinished = self.unfinished()
        for loop in tuple(self._loops):
            loop.end()
        self._listeners.clear()
        self._release_unused(unfinished)

    # ------------------------------------------------------------ what the subscription calls

    def on_message(self, message: Message[Any]) -> None:
        if self._subscription is not None:
            for loop in tuple(self._loops):
                loop.push(message, self._subscription.mark)
        self._emit("message", message)

    def on_event(self, type: str, event: Any) -> None:
        self._emit(type, event)
        if type == "state" and event.state == "gone":
            for loop in tuple(self._loops):
                loop.end(event.error)

    def misses_gaps(self) -> bool:
        return not self._listeners.get("gap") and self.consumes()

    def unfinished(self) -> Mark | None:
        marks = [mark for loop in self._loops if (mark := loop.unfinished()) is not None]
        return min(marks, default=None)

    def waiting(self) -> int:
        return sum(loop.waiting for loop in self._loops)

    def consumes(self) -> bool:
        return bool(self._listeners.get("message") or len(self._loops))

    def _emit(self, type: str, event: Any) -> None:
        for listener in tuple(self._listeners.get(type, ())):
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 (whatever the application raises)
                self._owner.report(error)

    def _hold(self) -> Subscription:
        if self._subscription is None:
            self._subscription = self._owner.acquire(self.name, self._options, self)
        return self._subscription

    # ------------------------------------------------------------ what a loop calls

    def on_handled(self) -> None:
        """Note that a loop has finished a message."""
        if self._subscription is not None:
            self._subscription.on_handled()

    def on_dropped(self) -> None:
        """Tell that a loop, which is too slow, misses messages."""
        self._emit("gap", Gap(self.name, OVERFLOW))

    def on_end(self, loop: MessageLoop) -> None:
        """Let go of *loop*, which has ended."""
        self._loops.discard(loop)
        self._release_unused(loop.unfinished())

    def _release_unused(self, unfinished: Mark | None = None) -> None:
        """Let go of the subscription if nobody uses it; *unfinished* is before what is unfinished."""
        subscription = self._subscription
        if subscription is None:
            return
        if not self.consumes():
            subscription.on_consumer_left(unfinished or subscription.mark)
        if not len(self._loops) and not any(self._listeners.values()):
            self._subscription = None
            self._owner.release(subscription, self)


class MessageLoop:
    """The messages of one `async for` loop; close it with `aclose`, or leave `async with`."""

    def __init__(self, limit: int, channel: Channel, *, on_slow: OnSlow = "raise") -> None:
        self.dropped = 0
        """How many messages were dropped, because the loop was too slow for them."""
        self._limit = limit
        self._drops = on_slow == "drop_oldest"
        self._behind = False
        """Whether messages were dropped since the loop last had none waiting."""
        self._channel = channel
        self._waiting: deque[tuple[Message[Any], Mark]] = deque()
        self._current: Mark | None = None
        """Before the message that the body of the loop has now."""
        self._arrived = asyncio.Event()
        self._ended = False
        self._error: FanwayError | None = None

    def __aiter__(self) -> MessageLoop:
        return self

    async def __anext__(self) -> Message[Any]:
        if self._current is not None:
            self._current = None
            self._channel.on_handled()
        while not self._waiting:
            if self._ended:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        message, self._current = self._waiting.popleft()
        self._behind = self._behind and bool(self._waiting)
        return message

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._current = None
        await self.aclose()

    async def aclose(self) -> None:
        """End the loop, and forget what waits."""
        self.end()
        self._waiting.clear()

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return len(self._waiting)

    def unfinished(self) -> Mark | None:
        """Return the point before the oldest message that the body has not finished, if any."""
        return self._current or (self._waiting[0][1] if self._waiting else None)

    def __del__(self) -> None:
        self.end()

    def push(self, message: Message[Any], mark: Mark) -> None:
        """Add a message, which comes after *mark*; end the loop, or drop the oldest, if too many wait."""
        if len(self._waiting) >= self._limit and self._drops:
            self._drop()
        elif len(self._waiting) >= self._limit:
            return self.end(FanwayError(OVERFLOW, f"{self._limit} messages waited for a slow loop"))
        self._waiting.append((message, mark))
        return self._arrived.set()

    def _drop(self) -> None:
        self._waiting.popleft()
        self.dropped += 1
        if not self._behind:
            self._behind = True
            self._channel.on_dropped()

    def end(self, error: FanwayError | None = None) -> None:
        """End the loop after the messages that wait, with *error* if there is one."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        self._channel.on_end(self)
        self._arrived.set()
