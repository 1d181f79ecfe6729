"""All subscriptions of a client: who is subscribed, who waits, and what `connect` restores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from fanway_client._protocol.client import ClientState, Effects
from fanway_client._protocol.commands import map_of
from fanway_client._protocol.errors import ErrorCode
from fanway_client._protocol.messages import Error
from fanway_client._protocol.server_messages import server_message_of
from fanway_client.connection import Connection, error_of, known_code
from fanway_client.environment import Environment, Tasks, Timers, answer_of
from fanway_client.errors import CONNECTION_LOST, NOT_CONNECTED, FanwayError
from fanway_client.positions import SavedPositions
from fanway_client.subscription import (
    ChannelOptions,
    ChannelStatistics,
    Map,
    Sink,
    Subscription,
    widened,
)

GetChannelTokens = Callable[[Sequence[str]], Mapping[str, str] | Awaitable[Mapping[str, str]]]
"""Returns channel tokens by channel: one call for all channels that need one at the same time."""

TOKEN_CODES = frozenset({ErrorCode.UNAUTHORIZED, ErrorCode.TOKEN_EXPIRED, ErrorCode.PERMISSION_DENIED})
"""Codes after which another channel token may help."""
MESSAGE_BYTES = 65_536
"""The size of `connect` if the gateway has not said yet what it takes."""
CONNECT_BYTES = 9_000
"""The size of `connect` beside its `subs`: the token is at most 8,192 characters."""


class Subscriptions:
    """The channels of one client."""

    def __init__(
        self,
        environment: Environment,
        timers: Timers,
        calls: Tasks,
        saved: SavedPositions,
        machine: ClientState,
        *,
        get_channel_tokens: GetChannelTokens | None,
        retry_delay: Callable[[int, float | None], float],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._environment = environment
        self._timers = timers
        self._calls = calls
        self._saved = saved
        self._machine = machine
        self._get_channel_tokens = get_channel_tokens
        self._retry_delay = retry_delay
        self.on_error = on_error
        self._by_channel: dict[str, Subscription] = {}
        self._message_bytes = MESSAGE_BYTES
        self._wanting: list[Subscription] | None = None
        """Channels that wait for one call of `get_channel_tokens`."""
        self._asked: dict[str, str | None] = {}
        """The channels of the last `connect`, and the positions that it named."""
        self.connection: Connection

    def acquire(self, channel: str, options: ChannelOptions, sink: Sink) -> Subscription:
        """Return the subscription of *channel* with *sink* attached; subscribe if it is new."""
        subscription = self._by_channel.get(channel)
        if subscription is not None:
            self._join(subscription, options, sink)
            return subscription
        subscription = self._add(channel, options)
        subscription.sinks.append(sink)
        if options.token and self._get_channel_tokens is not None:
            self._fetch_token(subscription)
        else:
            self._subscribe(subscription)
        return subscription

    def statistics(self) -> dict[str, ChannelStatistics]:
        """Return the numbers of every channel, by its name."""
        return {channel: subscription.statistics() for channel, subscription in self._by_channel.items()}

    def _join(self, subscription: Subscription, options: ChannelOptions, sink: Sink) -> None:
        """Attach *sink* to a subscription that is there already."""
        was_used, load_state = bool(subscription.sinks), subscription.options.load_state
        if was_used and options.load_state and options.load_state != load_state:
            what = "another load_state" if load_state else "handles without load_state"
            raise ValueError(f"{subscription.channel}: it is in use with {what}; all its handles share one")
        subscription.sinks.append(sink)
        resumed = subscription.by_server and not was_used and self._resume_saved(subscription)
        rewind = subscription.options.rewind
        self._widen(subscription, options)
        if options.load_state and not load_state:
            subscription.load_from_now()
        elif options.rewind and not options.load_state and not resumed:
            # The gateway knows of one rewind for all; that of a later handle is read from history.
            subscribed = subscription.state == "live" or subscription.position is not None
            has_history = subscription.position is not None or subscription.state != "live"
            if has_history and (subscribed or options.rewind != rewind):
                subscription.rewind_later(sink, options.rewind)

    def _resume_saved(self, subscription: Subscription) -> bool:
        """Resume a channel that the server subscribed, and that nobody has listened to, where it was left."""
        position = self._saved.get(subscription.channel)
        if position is None or subscription.state != "live" or position == subscription.position:
            return False
        subscription.on_disconnected()
        self._machine.advance(subscription.channel, position)
        self.resubscribe(subscription)
        return True

    def release(self, subscription: Subscription, sink: Sink) -> None:
        """Detach *sink*; unsubscribe if nobody else has attached by the next turn of the event loop."""
        subscription.detach(sink)
        if not subscription.sinks and not subscription.by_server:
            self._environment.call_soon(lambda: self._remove_unused(subscription))

    def _remove_unused(self, subscription: Subscription) -> None:
        channel = subscription.channel
        if subscription.sinks or self._by_channel.get(channel) is not subscription:
            return
        self._forget(subscription)
        subscription.on_disconnected()
        if not subscription.paused and subscription.state != "gone":
            self._unsubscribe(channel)

    def for_connect(self) -> Sequence[str]:
        """Return the channels of the next `connect`: all that are wanted and fit into one message."""
        channels: list[str] = []
        size = CONNECT_BYTES
        for channel, subscription in self._by_channel.items():
            if (
                subscription.paused
                or subscription.state == "gone"
                or subscription.options.presence is not None
            ):
                continue
            kept = self._machine.channels[channel]
            size += len(channel) + len(kept.token or "") + len(kept.position or "") + 64
            if size > self._message_bytes:
                break
            channels.append(channel)
        self._asked = {channel: self._machine.channels[channel].position for channel in channels}
        return channels

    def on_connected(self, received: Map, effects: Effects) -> None:
        """Handle the `subs` of `connected`, and subscribe to what `connect` did not name."""
        self._message_bytes = received.get("limits", {}).get("message_size", MESSAGE_BYTES)
        for channel, answer in received.get("subs", {}).items():
            subscription = self._by_channel.get(channel)
            if subscription is None and channel in self._asked:
                self._machine.remove(channel)
                self._unsubscribe(channel)  # released in the meantime
            elif answer["type"] == "error":
                self._on_rejected(subscription, error_of(answer), effects)
            else:
                self._on_subscribed({**answer, "channel": channel}, self._asked.get(channel))
                if channel in self._asked:
                    self._ask_for_members(self._by_channel[channel], asked=False)
        for subscription in tuple(self._by_channel.values()):
            channel = subscription.channel
            if channel in received.get("subs", {}) or subscription.paused or subscription.state == "gone":
                continue
            if channel in self._asked:
                self._drop(subscription, FanwayError("", "the gateway did not subscribe to it"))
            else:
                self._subscribe(subscription)

    def on_disconnected(self) -> None:
        """The connection ended."""
        for subscription in self._by_channel.values():
            subscription.on_disconnected()

    def on_push(self, push: Map) -> None:
        """Handle a push that belongs to a channel."""
        channel = push.get("channel")
        subscription = self._by_channel.get(channel) if isinstance(channel, str) else None
        if push["type"] == "subscribed":
            since = None if subscription is None else subscription.position
            self._machine.on_message(server_message_of(push))
            self._on_subscribed(push, since)
        elif subscription is None:
            pass  # sent before the gateway had the unsubscribe, or of a later version
        elif push["type"] == "unsubscribed":
            self._on_unsubscribed(subscription, push)
        else:
            subscription.on_push(push)

    def stop(self, error: FanwayError) -> None:
        """Tell every channel that the client has stopped."""
        for subscription in self._by_channel.values():
            subscription.set_state("gone", error)

    def restart(self) -> None:
        """Want again what was wanted when the client stopped."""
        for subscription in self._by_channel.values():
            subscription.paused = False
            if subscription.state == "gone":
                subscription.set_state("pending")
            if self._can_fetch_token(subscription) and not self._machine.channels[subscription.channel].token:
                self._fetch_token(subscription)  # the call was cancelled

    # ------------------------------------------------------------ subscribe

    def resubscribe(self, subscription: Subscription) -> None:
        """Subscribe again from the position of *subscription*."""
        self._unsubscribe(subscription.channel)
        self._subscribe(subscription)

    def read_last(self, subscription: Subscription, sink: Sink, count: int) -> None:
        """Read the last *count* messages, and pass them to `on_rewound` of *subscription*."""

        def on_error(error: FanwayError) -> None:
            if error.code not in {CONNECTION_LOST, NOT_CONNECTED}:  # else read again when it is live
                self.on_error(error)
                subscription.on_rewound(sink, ())

        self.connection.request(
            {"type": "history", "channel": subscription.channel, "limit": count, "reverse": True},
            lambda reply: subscription.on_rewound(sink, reply["messages"]),
            on_error,
        )

    def retry(self, callback: Callable[[], None], attempt: int) -> None:
        """Call *callback* after the backoff of *attempt*."""
        self._timers.call_later(self._retry_delay(attempt, None), callback)

    def _add(self, channel: str, options: ChannelOptions) -> Subscription:
        subscription = Subscription(
            channel, options, calls=self._calls, saved=self._saved, machine=self._machine, owner=self
        )
        self._by_channel[channel] = subscription
        if channel not in self._machine.channels:
            # The state replaces older messages.
            older = not options.load_state
            self._machine.add(
                channel,
                position=self._saved.get(channel) if older else None,
                rewind=options.rewind if older else None,
            )
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        self._saved.settle(subscription.channel)
        del self._by_channel[subscription.channel]
        self._machine.remove(subscription.channel)

    def _widen(self, subscription: Subscription, options: ChannelOptions) -> None:
        resubscribe = options.presence and not subscription.options.presence and subscription.state == "live"
        subscription.options = widened(subscription.options, options)
        if resubscribe:
            subscription.on_disconnected()
            self.resubscribe(subscription)

    def _subscribe(self, subscription: Subscription) -> None:
        if not self.connection.connected:
            return  # `connect` names it
        channel, presence = subscription.channel, subscription.options.presence
        command = self._machine.subscribe_command(channel)
        if presence is not None:
            command = replace(command, join_leave=presence, members=presence)
        since = subscription.position

        def current() -> bool:
            return self._by_channel.get(channel) is subscription and subscription.state != "live"

        def on_reply(received: Map) -> None:
            if current():
                self._machine.on_message(server_message_of(received))
                self._on_subscribed(received, since)
                self._ask_for_members(subscription, asked=bool(presence))

        def on_error(error: FanwayError) -> None:
            if current() and error.code != CONNECTION_LOST:
                self._on_rejected(
                    subscription, error, self._machine.on_message(error_message(error, command.id))
                )

        self.connection.request(map_of(command), on_reply, on_error)

    def _ask_for_members(self, subscription: Subscription, *, asked: bool) -> None:
        """Subscribe again if a handle wants joins and members that were not *asked* for when it was sent."""
        if not asked and subscription.options.presence:
            subscription.on_disconnected()
            self.resubscribe(subscription)

    def _unsubscribe(self, channel: str) -> None:
        if self.connection.connected:
            self.connection.request(
                {"type": "unsubscribe", "channel": channel}, lambda _: None, lambda _: None
            )

    def _on_subscribed(self, received: Map, since: str | None) -> None:
        subscription = self._by_channel.get(received["channel"])
        if subscription is None:
            # The server's own: kept, so that a handle finds its state, and a reconnect resumes it.
            subscription = self._add(received["channel"], ChannelOptions())
            subscription.by_server = True
        subscription.on_subscribed(received, since)

    def _on_rejected(self, subscription: Subscription | None, error: FanwayError, effects: Effects) -> None:
        if subscription is None:
            return
        channel = subscription.channel
        for retry in effects.retries:
            if retry.channel == channel:
                self._pause(subscription, retry.after_seconds, lambda: self._subscribe(subscription))
        for dropped in effects.dropped:
            if dropped.channel != channel:
                continue
            if (
                self._can_fetch_token(subscription)
                and error.code in TOKEN_CODES
                and subscription.attempts == 0
            ):
                subscription.attempts += 1
                self._machine.add(channel, position=dropped.position, rewind=subscription.options.rewind)
                self._fetch_token(subscription)
            else:
                self._drop(subscription, error)

    def _on_unsubscribed(self, subscription: Subscription, push: Map) -> None:
        position = subscription.position
        subscription.on_disconnected()
        if push.get("code") == ErrorCode.TOKEN_EXPIRED and self._can_fetch_token(subscription):
            self._machine.channels[subscription.channel].position = position
            return self._fetch_token(subscription)
        reason = push.get("reason") or "the gateway ended the subscription"
        return self._drop(subscription, FanwayError(push.get("code") or "", reason))

    def _drop(self, subscription: Subscription, error: FanwayError) -> None:
        self._forget(subscription)
        subscription.set_state("gone", error)

    def _pause(self, subscription: Subscription, delay: float, then: Callable[[], None]) -> None:
        subscription.paused = True

        def resume() -> None:
            if self._by_channel.get(subscription.channel) is subscription and subscription.paused:
                subscription.paused = False
                then()

        self._timers.call_later(delay, resume)

    # ------------------------------------------------------------ channel tokens

    def _can_fetch_token(self, subscription: Subscription) -> bool:
        return self._get_channel_tokens is not None and bool(subscription.options.token)

    def _fetch_token(self, subscription: Subscription) -> None:
        """Ask for the token of *subscription*, together with all that ask in this turn of the event loop."""
        subscription.paused = True
        if self._wanting is not None:
            self._wanting.append(subscription)
            return
        self._wanting = [subscription]
        self._environment.call_soon(self._fetch_wanted)

    def _fetch_wanted(self) -> None:
        wanted = [it for it in self._wanting or () if self._by_channel.get(it.channel) is it]
        self._wanting = None
        if wanted:
            self._calls.spawn(self._fetch_tokens(wanted))

    async def _fetch_tokens(self, wanted: Sequence[Subscription]) -> None:
        get_channel_tokens = self._get_channel_tokens
        if get_channel_tokens is None:
            return
        try:
            channels = [subscription.channel for subscription in wanted]
            tokens = await answer_of(get_channel_tokens(channels), "get_channel_tokens")
        except Exception as error:  # noqa: BLE001 (whatever the application raises)
            self.on_error(error)
            for subscription in wanted:
                delay = self._retry_delay(subscription.attempts, None)
                subscription.attempts += 1
                self._pause(subscription, delay, lambda it=subscription: self._fetch_token(it))  # type: ignore[misc]
            return
        for subscription in wanted:
            self._on_token(subscription, tokens.get(subscription.channel))

    def _on_token(self, subscription: Subscription, token: str | None) -> None:
        if self._by_channel.get(subscription.channel) is not subscription:
            return None
        subscription.paused = False
        if token is None:
            return self._drop(
                subscription, FanwayError(ErrorCode.UNAUTHORIZED, "get_channel_tokens has none for it")
            )
        self._machine.channels[subscription.channel].token = token
        return self._subscribe(subscription)


def error_message(error: FanwayError, id: int) -> Error:
    """Return *error*, the answer to command *id*, as the state machine takes it."""
    retry_after = None if error.retry_after is None else int(error.retry_after * 1000)
    return Error(known_code(error.code), error.message, retry_after, id)
