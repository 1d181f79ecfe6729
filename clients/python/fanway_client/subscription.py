"""One channel of the client: its position across connections, and who listens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, Protocol, TypeVar

from fanway_client._protocol.client import NOT_RECOVERED, ClientState
from fanway_client.environment import Tasks, answer_of
from fanway_client.errors import FanwayError
from fanway_client.positions import SavedPositions

Map = dict[str, Any]
Data = TypeVar("Data")

SubscriptionState = Literal["idle", "pending", "live", "gone"]
"""`idle`: nobody listens; `pending`: not subscribed yet, or not any more; `live`: messages arrive; `gone`:
the gateway refused or ended the subscription."""

MAX_HELD = 1_000
"""Messages that are held while `load_state` runs, before they are dropped and the state is loaded once
more."""


@dataclass(frozen=True, slots=True)
class Sender:
    """The connection that published a message."""

    connection: str
    user: str


@dataclass(frozen=True, slots=True)
class Member:
    """One connection that is present in a channel; *info* comes from its token."""

    connection: str
    user: str
    info: Any = None


@dataclass(frozen=True, slots=True)
class Message(Generic[Data]):
    """A message of a channel."""

    channel: str
    data: Data
    id: str | None = None
    """Absent if the channel keeps no history."""
    sender: Sender | None = None
    """The client that published it; None if a backend did."""
    tags: Mapping[str, str] | None = None
    time: int | None = None
    """When the gateway accepted it, in milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages are missing at this point."""

    channel: str
    reason: str
    """`not_recovered` after a connection that was lost, else what the gateway says: `overflow`, `trimmed`,
    `reset`."""


@dataclass(frozen=True, slots=True)
class ChannelState:
    """A subscription is in another state."""

    channel: str
    state: SubscriptionState
    error: FanwayError | None = None


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """One channel of a client."""

    state: SubscriptionState
    position: str | None
    """The id of the last message that was handed over."""
    delivered: int
    """How many messages were handed over."""
    waiting: int
    """How many of them wait in `async for` loops."""


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """Load the state that a channel describes."""

    channel: str
    reason: Literal["first", "gap"]
    position: str | None
    """The position of the channel when the subscription began; None if it keeps no history."""


LoadState = Callable[[LoadRequest], str | Awaitable[str | None] | None]
"""Loads the state that a channel describes; returns the position at which it was read, if that is known."""


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """What a user of a channel asks for."""

    rewind: int | None = None
    presence: bool | None = None
    load_state: LoadState | None = None
    token: bool | None = None


Mark = tuple[int, str | None]
"""A point between two messages of a subscription: how many were before it, and the position there."""


class Sink(Protocol):
    """Who listens to a subscription."""

    def on_message(self, message: Message[Any]) -> None:
        """A message arrived."""

    def on_event(self, type: str, event: Any) -> None:
        """A `gap`, `members`, `join`, `leave`, `update` or `state` arrived."""

    def misses_gaps(self) -> bool:
        """Return whether messages reach the application here, and gaps do not."""

    def consumes(self) -> bool:
        """Return whether messages reach the application here."""

    def unfinished(self) -> Mark | None:
        """Return the point before the oldest message that the application has not finished here, if any."""

    def waiting(self) -> int:
        """Return how many messages wait here for the application."""


class SubscriptionOwner(Protocol):
    """Who knows the connection."""

    def resubscribe(self, subscription: Subscription) -> None:
        """Subscribe again from the position of *subscription*."""

    def read_last(self, subscription: Subscription, sink: Sink, count: int) -> None:
        """Read the last *count* messages, and pass them to `on_rewound` of *subscription*."""

    def retry(self, callback: Callable[[], None], attempt: int) -> None:
        """Call *callback* after the backoff of *attempt*."""

    def on_error(self, error: Exception) -> None:
        """Report an error that no call returns."""


class Subscription:
    """A channel that is wanted. Its position and its token are those of the state machine."""

    def __init__(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        calls: Tasks,
        saved: SavedPositions,
        machine: ClientState,
        owner: SubscriptionOwner,
    ) -> None:
        self.channel = channel
        self.options = options
        self.state: SubscriptionState = "pending"
        self.error: FanwayError | None = None
        self.attempts = 0
        """Channel tokens that were refused in a row, or could not be fetched."""
        self.paused = False
        """Whether a delay or a channel token is waited for, so that no `connect` may name the channel."""
        self.by_server = False
        """Whether the server subscribed this client by itself."""
        self.sinks: list[Sink] = []
        self._left: Mark | None = None
        """Where the last consumer of messages stopped; None while there is one."""
        self.delivered = 0
        """How many messages were handed over."""
        self._late: dict[Sink, _Late] = {}
        """Sinks that were attached to a live subscription, and wait for their rewind."""
        self._calls = calls
        self._saved = saved
        self._machine = machine
        self._owner = owner
        self._held: list[Map] | None = None
        """Messages that wait for `load_state`."""
        self._held_too_much = False
        self._loads = 0
        self._load_call: asyncio.Task[None] | None = None
        """The latest call of `load_state`."""
        self._rejoins = 0
        """How often in a row the stream was to go on after the position of a loaded state."""
        self._unloaded: Literal["first", "gap"] | None = "first"
        """Why `load_state` has to be called, or is being called; None if the application has the state."""

    @property
    def position(self) -> str | None:
        """The id of the last message that was handled; `since` of the next subscribe."""
        kept = self._machine.channels.get(self.channel)
        return None if kept is None else kept.position

    def statistics(self) -> ChannelStatistics:
        """Return its numbers."""
        waiting = sum(sink.waiting() for sink in self.sinks)
        return ChannelStatistics(self.state, self.position, self.delivered, waiting)

    @property
    def mark(self) -> Mark:
        """The present point between two messages."""
        return self.delivered, self.position

    def handled(self) -> str | None:
        """Return the position before the first message that the application has not finished everywhere."""
        unfinished = [mark for sink in self.sinks if (mark := sink.unfinished()) is not None]
        if unfinished:
            return min(unfinished)[1]
        return self.position if self._left is None else self._left[1]

    def on_consumer(self) -> None:
        """Note that the application begins to consume messages."""
        self._left = None

    def on_consumer_left(self, mark: Mark) -> None:
        """Note that a consumer has finished all before *mark*, and has stopped."""
        if not any(sink.consumes() for sink in self.sinks):
            self._left = mark
        self.on_handled()

    def on_handled(self) -> None:
        """Note that the application has finished a message."""
        if self.sinks and not self.options.load_state:  # a state that is loaded replaces older messages
            self._saved.changed(self.channel, self.handled)

    def set_state(self, state: SubscriptionState, error: FanwayError | None = None) -> None:
        """Change the state, and tell who listens."""
        self.error = error
        if self.state == state:
            return
        self.state = state
        self._emit("state", ChannelState(self.channel, state, error))

    def load_from_now(self) -> None:
        """Load the state that the channel describes: the first handle with `load_state` was attached."""
        self._unloaded = "first"
        if self.state == "live":
            self._load("first", self.position)

    def on_subscribed(self, received: Map, since: str | None) -> None:
        """Handle a `subscribed` that answers a subscribe from *since*.

        The machine has the position after its messages already; ours moves with each that was handled.
        """
        position = received.get("position")
        self._keep(since)
        for late in self._late.values():
            late.passed |= {since, position}
        self.attempts = 0
        self.paused = False
        self.set_state("live")
        if received.get("recovered"):
            self._rejoins = 0
        if since is not None and not received.get("recovered"):
            self._on_gap(NOT_RECOVERED, position)
        elif self._unloaded and self.options.load_state:
            self._load(self._unloaded, since or position)
        for message in received.get("messages", ()):
            self._on_message(message)
        if self._held is None:
            self._keep(position)
        for sink, late in self._late.items():
            if late.reading:
                self._owner.read_last(self, sink, late.count)
        if received.get("members") is not None:
            self._emit("members", [member_of(member) for member in received["members"]])

    def on_push(self, push: Map) -> None:
        """Handle a push of this channel."""
        if self.state != "live":
            return  # of a subscription that ended before this one began
        match push["type"]:
            case "message":
                self._on_message(push)
            case "gap":
                self._on_gap(push["reason"], push.get("position"))
            case "join" | "leave" | "update" as change:
                self._emit(change, member_of(push["member"]))

    def on_disconnected(self) -> None:
        """The connection, or the subscription, ended."""
        self._held = None  # they come again: the position is before them
        self._cancel_load()
        if self.position is None:
            self._unloaded = self._unloaded or "gap"  # without history nobody can say what was missed
        if self.state == "live":
            self.set_state("pending")

    def _on_message(self, push: Map) -> None:
        if self._held is not None:
            return self._hold(push)
        id = push.get("message")
        if id is not None and id == self.position:
            return None
        message = message_of(push)
        for sink in tuple(self.sinks):
            late = self._late.get(sink)
            if late is None or late.takes(message):
                sink.on_message(message)
            elif late.done:
                del self._late[sink]
        self.delivered += 1
        if id is not None:
            self._keep(id)
        return None

    def _keep(self, position: str | None) -> None:
        kept = self._machine.channels.get(self.channel)
        if kept is not None:
            kept.position = position
            self.on_handled()

    def _on_gap(self, reason: str, position: str | None) -> None:
        self._held = None
        if position is not None or reason == NOT_RECOVERED:
            self._keep(position)
        for late in self._late.values():
            late.on_gap(position)
        missed = any(sink.misses_gaps() for sink in self.sinks)
        self._emit("gap", Gap(self.channel, reason))
        if self.options.load_state and reason == NOT_RECOVERED and self._rejoins:
            self._load_later(position)
        elif self.options.load_state:
            self._load("gap", position)
        elif missed:
            self._owner.on_error(FanwayError("gap", f"messages of {self.channel} are missing ({reason})"))

    def _emit(self, type: str, event: Any) -> None:
        for sink in tuple(self.sinks):
            sink.on_event(type, event)

    # ------------------------------------------------------------ a rewind of a later handle

    def rewind_later(self, sink: Sink, count: int) -> None:
        """Hold the messages of *sink* until it has the last *count* that came before it."""
        self._late[sink] = _Late(count, self.position)
        if self.state == "live":
            self._owner.read_last(self, sink, count)

    def on_rewound(self, sink: Sink, messages: Sequence[Map]) -> None:
        """Hand over *messages*, the last of the channel, newest first, and those that were held meanwhile."""
        late = self._late.get(sink)
        if late is None or not late.reading:
            return
        joined = late.joined([message_of(push) for push in reversed(messages)])
        if late.done:
            del self._late[sink]
        for message in joined:
            sink.on_message(message)

    def detach(self, sink: Sink) -> None:
        """Hand over nothing more to *sink*."""
        self.sinks.remove(sink)
        self._late.pop(sink, None)

    # ------------------------------------------------------------ load_state

    def _load(self, reason: Literal["first", "gap"], position: str | None, attempt: int = 0) -> None:
        """Hold messages while the state is loaded, then deliver those that the state does not have."""
        self._held = []
        self._held_too_much = False
        self._unloaded = reason
        if position is not None:
            self._keep(position)
        self._cancel_load()
        request = LoadRequest(self.channel, reason, position)
        self._load_call = self._calls.spawn(self._run_load(request, self._loads, attempt))

    def _load_later(self, position: str | None) -> None:
        """Load again after a delay: the gateway does not know the position of the state that was loaded."""
        self._cancel_load()
        self._held = []
        self._held_too_much = False
        self._unloaded = "gap"
        request, load = LoadRequest(self.channel, "gap", position), self._loads
        self._owner.retry(lambda: self._load_again(request, load, 0), self._rejoins - 1)

    def _cancel_load(self) -> None:
        """End the present call: one that ends late must not replace the state that a later one has loaded."""
        self._loads += 1
        if self._load_call is not None and self._load_call is not asyncio.current_task():
            self._load_call.cancel()

    async def _run_load(self, request: LoadRequest, load: int, attempt: int) -> None:
        load_state = self.options.load_state
        if load_state is None:
            return
        try:
            position = await answer_of(load_state(request), "load_state")
        except Exception as error:  # noqa: BLE001 (whatever the application raises)
            if load == self._loads:
                self._owner.on_error(error)
                self._owner.retry(lambda: self._load_again(request, load, attempt + 1), attempt)
            return
        if load == self._loads:
            self._on_loaded(position)

    def _load_again(self, request: LoadRequest, load: int, attempt: int) -> None:
        if load == self._loads:
            self._load(request.reason, self._newest(), attempt)

    def _newest(self) -> str | None:
        """Return the id of the newest message received; what is held before it is part of the next load."""
        return self._held[-1].get("message") if self._held else self.position

    def _hold(self, push: Map) -> None:
        if self._held is None:
            return
        if len(self._held) < MAX_HELD:
            self._held.append(push)
        else:
            self._held_too_much = True
            self._held[:] = [push]

    def _on_loaded(self, position: str | None) -> None:
        held = self._held or []
        if self._held_too_much:
            return self._load("gap", self._newest())
        self._held = None
        self._unloaded = None
        known = position is None or position == self.position
        ids = [push.get("message") for push in held]
        if not known and position not in ids:
            # Read before the subscription, or of messages that have not arrived yet: the gateway joins it.
            self._keep(position)
            self._rejoins += 1
            self.state = "pending"
            return self._owner.resubscribe(self)
        if position is not None:
            self._keep(position)
        for push in held if known else held[ids.index(position) + 1 :]:
            self._on_message(push)
        return None


class _Late:
    """What a sink gets that comes to a live subscription: the last messages before it, then what follows."""

    def __init__(self, count: int, position: str | None) -> None:
        self.count = count
        self.passed = {position}
        """Positions of the stream at which the sink holds everything that comes after."""
        self._held: list[Message[Any]] | None = []
        """What arrived since; None once the last messages were read."""
        self._newest: str | None = None
        """The id of the newest of them, if it has not arrived as a push yet."""

    @property
    def reading(self) -> bool:
        """Whether the last messages have not been read yet."""
        return self._held is not None

    @property
    def done(self) -> bool:
        """Whether the sink has come up with the stream."""
        return self._held is None and self._newest is None

    def takes(self, message: Message[Any]) -> bool:
        """Return whether to hand *message* over; hold it, or drop it if it was read already, if not."""
        if self._held is not None:
            self._held.append(message)
            return False
        if message.id is None or self._newest is None:
            return True
        if message.id == self._newest:
            self._newest = None
        return False

    def joined(self, last: list[Message[Any]]) -> list[Message[Any]]:
        """Return *last*, and what follows it of what was held."""
        held, self._held = self._held or [], None
        newest = last[-1].id if last else None
        ids = [message.id for message in held]
        if newest in ids and newest is not None:
            held = held[ids.index(newest) + 1 :]
        elif newest is not None and newest not in self.passed:
            self._newest, held = newest, []  # every message up to it is still to arrive
        return last + held

    def on_gap(self, position: str | None) -> None:
        """Drop what is held: it is before a gap."""
        self.passed.add(position)
        self._newest = None
        if self._held is not None:
            self._held.clear()


def message_of(push: Map) -> Message[Any]:
    """Return a `message` push, or an element of `messages`, for the application."""
    sender = push.get("from")
    return Message(
        push["channel"],
        push["data"],
        push.get("message"),
        None if sender is None else Sender(sender["connection"], sender["user"]),
        push.get("tags"),
        push.get("time"),
    )


def member_of(member: Map) -> Member:
    """Return a member for the application."""
    return Member(member["connection"], member["user"], member.get("info"))


def widened(options: ChannelOptions, more: ChannelOptions) -> ChannelOptions:
    """Return *options* with what another user of the channel asks for."""
    return replace(
        options,
        presence=options.presence or more.presence,
        load_state=more.load_state or options.load_state,
        token=more.token if options.token is None else options.token,
    )
