"""`Fanway`: one client of the gateway."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from fanway_client._protocol.client import DEFAULT_BACKOFF, BackoffBounds, ClientState, Effects
from fanway_client._protocol.errors import Backoff
from fanway_client._protocol.messages import ClientInfo, Connected
from fanway_client.channel import BUFFER, Channel, OnSlow
from fanway_client.connection import Connection, Map, State, StateChange
from fanway_client.environment import AsyncioEnvironment, Environment, PlatformEvent, Tasks, Timers, answer_of
from fanway_client.errors import STOPPED, FanwayError
from fanway_client.log import LOGGER, endpoint
from fanway_client.positions import Loaded, Positions, SavedPositions
from fanway_client.publisher import Published, Publisher
from fanway_client.subscription import ChannelOptions, ChannelStatistics, LoadState, Sink, Subscription
from fanway_client.subscriptions import GetChannelTokens, Subscriptions
from fanway_client.tokens import GetToken, TokenSource
from fanway_client.transport import Transport, WebSocketTransport, websocket_url


@dataclass(frozen=True, slots=True)
class Statistics:
    """The numbers of a client."""

    state: State
    attempt: int
    """How many attempts failed, or connections ended, since `connected`."""
    connects: int
    """How many times it has connected."""
    sent: int
    received: int
    """Messages to and from the gateway, on all connections."""
    publishing: int
    """Publishes that wait for a connection or a reply."""
    channels: Mapping[str, ChannelStatistics]


class Fanway:
    """A client of the gateway: connects when it is used, reconnects, and resumes every channel.

    async with Fanway("https://rt.example.com", get_token=get_token) as fanway:
        async for message in fanway.channel("chat:1"):
            print(message.data)

    Leaving the `async with` disconnects: publishes that wait fail, loops end, no task, timer or socket is
    left. All calls belong to the event loop of the `async with`.

    Args:
        url: `https://host`, or `wss://host/v1/ws`; with several, each failed attempt goes on to the next.
        get_token: Returns the connection token, or an awaitable of it; raises `UnauthorizedError` to stop.
            Without it the client is anonymous.
        get_channel_tokens: Returns channel tokens by channel.
        name: Name of the application, for operators.
        version: Its version.
        tls: For `wss`; the system's certificates if None.
        positions: Keeps the positions of channels across restarts of the process: see `Positions`.
        backoff: The bounds of the delays between attempts.
        transport: Replaced by tests.
        environment: Replaced by tests.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        get_token: GetToken | None = None,
        get_channel_tokens: GetChannelTokens | None = None,
        name: str | None = None,
        version: str | None = None,
        tls: ssl.SSLContext | None = None,
        positions: Positions | None = None,
        backoff: BackoffBounds = DEFAULT_BACKOFF,
        transport: Transport | None = None,
        environment: Environment | None = None,
    ) -> None:
        self._urls = [websocket_url(each) for each in ([url] if isinstance(url, str) else url)]
        if not self._urls:
            raise ValueError("url: expected at least one")
        self._get_token = get_token
        self._get_channel_tokens = get_channel_tokens
        self._info = None if name is None else ClientInfo(name, version)
        self._tls = tls
        self._positions = positions
        self._backoff = backoff
        self._transport = transport
        self._environment = environment
        self._listeners: dict[str, list[Callable[[Any], object]]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._connection: Connection | None = None
        self._pending_token: str | None = None

    def __repr__(self) -> str:
        return f"<Fanway {endpoint(self._urls[0])} {self.state}>"

    async def __aenter__(self) -> Self:
        if self._connection is not None:
            raise RuntimeError("a Fanway is entered once")
        loaded = None
        if self._positions is not None:
            loaded = await answer_of(self._positions.load(), "positions.load")
        self._group = await asyncio.TaskGroup().__aenter__()
        self.start(self._environment or AsyncioEnvironment(self._group), loaded)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered().stop()
        if self._group is not None:
            # The group waits for its tasks, or cancels them if it is cancelled; other errors are not its own.
            cancelled = error if isinstance(error, asyncio.CancelledError) else None
            await self._group.__aexit__(kind if cancelled else None, cancelled, None)

    def start(self, environment: Environment, loaded: Loaded = None) -> None:
        """Make the parts of the client; `async with` does it."""
        self._timers = Timers(environment)
        self._links = Tasks(environment)
        self._calls = Tasks(environment)
        self._saves = Tasks(environment)
        self._saved = SavedPositions(self._timers, self._saves, self._positions, loaded, self.report)
        self._tokens = TokenSource(environment, self._calls, self._get_token)
        self._tokens.set(self._pending_token)
        machine = ClientState(
            random=environment.random,
            can_fetch_token=self._get_token is not None,
            info=self._info,
            backoff=self._backoff,
        )

        def retry_delay(attempt: int, retry_after: float | None) -> float:
            jitter = self._backoff.bound(Backoff.JITTER, attempt) * environment.random()
            return max(retry_after or 0.0, jitter)

        self._retry_delay = retry_delay
        self._subscriptions = Subscriptions(
            environment,
            self._timers,
            self._calls,
            self._saved,
            machine,
            get_channel_tokens=self._get_channel_tokens,
            retry_delay=retry_delay,
            on_error=self.report,
        )
        connection = Connection(
            environment,
            self._timers,
            machine,
            self,
            urls=self._urls,
            transport=self._transport or WebSocketTransport(self._links.spawn, tls=self._tls),
            tokens=self._tokens,
        )
        self._subscriptions.connection = self._connection = connection
        self._publisher = Publisher(environment, self._timers, connection, retry_delay)

    # ------------------------------------------------------------ for applications

    @property
    def state(self) -> State:
        """`idle`, `connecting`, `connected`, `waiting`, `stopped`, or `suspended`.

        `suspended` is `waiting` for two minutes or more.
        """
        return "idle" if self._connection is None else self._connection.state

    @property
    def publishing(self) -> int:
        """How many publishes wait for a connection or a reply."""
        return 0 if self._connection is None else len(self._publisher)

    @property
    def info(self) -> Connected | None:
        """The reply to `connect`: this connection's id, user, node, limits. None unless connected."""
        return None if self._connection is None else self._connection.info

    def on(self, type: str, listener: Callable[[Any], object]) -> Callable[[], None]:
        """Call *listener* for each event; return a function that ends it.

        Args:
            type: `state` (`StateChange`), or `error` (an exception that no call reports: a listener that
                raised, a failed `get_token`, a gap that nobody listens to; without a listener it is logged).
            listener: Must not block.
        """
        listeners = self._listeners.setdefault(type, [])
        listeners.append(listener)
        return lambda: listeners.remove(listener) if listener in listeners else None

    def connect(self) -> None:
        """Connect now; after `stopped`, begin again. Channels and publishes do it the first time."""
        connection = self._entered()
        if connection.state == "stopped":
            self._saved.restart()
            self._subscriptions.restart()
        connection.connect()

    def channel(
        self,
        name: str,
        *,
        rewind: int | None = None,
        presence: bool | None = None,
        load_state: LoadState | None = None,
        token: bool | None = None,
        buffer: int = BUFFER,
        on_slow: OnSlow = "raise",
    ) -> Channel:
        """Return a handle on *name*; handles of the same name share one subscription.

        Args:
            name: The channel.
            rewind: How many of the last messages to begin with. A handle on a channel that is subscribed
                already reads them from the channel's history.
            presence: Whether joins, leaves and members are sent; None: as the channel is configured.
            load_state: Loads the state that the channel describes, at first and after each gap; messages
                that arrive meanwhile are held. If it returns the position at which the state was read, the
                messages continue exactly after it.
            token: Whether the channel wants a channel token.
            buffer: Messages that may wait for a slow `async for` loop.
            on_slow: What follows when more would wait: see `OnSlow`.

        A channel has one `load_state`: a handle with another one raises ValueError when it is used.
        """
        return Channel(
            name, ChannelOptions(rewind, presence, load_state, token), self, buffer=buffer, on_slow=on_slow
        )

    def stats(self) -> Statistics:
        """Return the numbers of the client since it was entered."""
        connection = self._entered()
        return Statistics(
            connection.state,
            connection.attempt,
            connection.connects,
            connection.sent,
            connection.received,
            len(self._publisher),
            self._subscriptions.statistics(),
        )

    def set_token(self, token: str | None) -> None:
        """Use *token* for the next connection; None: ask `get_token`, or connect without one.

        To sign out, or to sign in as somebody else: `await close()`, `set_token(…)`, and `connect()`.
        """
        self._pending_token = token
        if self._connection is not None:
            self._tokens.set(token)

    def wake(self, event: PlatformEvent = "wake") -> None:
        """Check the connection now: the application was in the background, or the network has changed."""
        self._entered().on_platform_event(event)

    async def close(self) -> None:
        """Disconnect for good; return when the socket is closed and no task is left."""
        self._entered().stop()
        await self._calls.finished()
        await self._links.finished()
        await self._saves.finished()

    # ------------------------------------------------------------ for handles

    def acquire(self, channel: str, options: ChannelOptions, sink: Sink) -> Subscription:
        self._entered()
        subscription = self._subscriptions.acquire(channel, options, sink)
        self._start_if_idle()
        return subscription

    def release(self, subscription: Subscription, sink: Sink) -> None:
        self._subscriptions.release(subscription, sink)

    async def publish(
        self, channel: str, data: Any, *, key: str | None = None, timeout: float = 30.0
    ) -> Published:
        """Publish *data* to *channel*: see `Channel.publish`."""
        self._entered()
        self._start_if_idle()
        return await self._publisher.publish(channel, data, key=key, timeout=timeout)

    async def request(self, command: Map) -> Map:
        """Return the reply to *command*; raise `FanwayError`."""
        reply: asyncio.Future[Map] = asyncio.get_running_loop().create_future()

        def on_reply(received: Map) -> None:
            if not reply.done():
                reply.set_result(received)

        def on_error(error: FanwayError) -> None:
            if not reply.done():
                reply.set_exception(error)

        self._entered().request(command, on_reply, on_error)
        return await reply

    def call(
        self, command: Map, on_reply: Callable[[Map], None], on_error: Callable[[FanwayError], None]
    ) -> None:
        """Send *command*; call back with its reply before the next message is handled."""
        self._entered().request(command, on_reply, on_error)

    def retry(self, callback: Callable[[], None], attempt: int, retry_after: float | None) -> None:
        """Call *callback* after the backoff of *attempt*, or after *retry_after* seconds if that is later."""
        self._timers.call_later(self._retry_delay(attempt, retry_after), callback)

    def report(self, error: Exception) -> None:
        if self._listeners.get("error"):
            self._emit("error", error)
        else:
            LOGGER.error("%s", error, exc_info=error)

    # ------------------------------------------------------------ what the connection calls

    def subs(self) -> Sequence[str]:
        return self._subscriptions.for_connect()

    def on_connected(self, received: Map, effects: Effects) -> None:
        self._subscriptions.on_connected(received, effects)
        self._publisher.on_connected(received)

    def on_push(self, push: Map) -> None:
        self._subscriptions.on_push(push)

    def on_disconnected(self) -> None:
        self._subscriptions.on_disconnected()

    def on_state(self, change: StateChange) -> None:
        if change.state == "stopped":
            self._subscriptions.stop(FanwayError(STOPPED, change.reason or "the client has stopped"))
            self._publisher.stop()
            self._saved.stop()
            self._timers.clear()
            self._tokens.stop()
            self._calls.cancel()
        self._emit("state", change)

    def on_error(self, error: Exception) -> None:
        self.report(error)

    def _emit(self, type: str, event: Any) -> None:
        for listener in tuple(self._listeners.get(type, ())):
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 (logged)
                LOGGER.exception("a listener to %s raised", type, exc_info=error)

    def _start_if_idle(self) -> None:
        if self.state == "idle":
            self._entered().connect()

    def _entered(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("use the client in `async with Fanway(…) as fanway:`")
        return self._connection
