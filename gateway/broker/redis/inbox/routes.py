"""The routes of this node: added for a channel's first subscriber, removed seconds after the last left."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import islice

from gateway.broker.base import Retention
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pipeline import AnswerFuture, Pipeline, wait_for
from gateway.broker.redis.inbox.channel_state import ChannelState
from gateway.broker.redis.inbox.held_entries import HeldEntries
from gateway.broker.redis.inbox.route_adds import ROUTES_PER_CALL, RouteAdds
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import REMOVE_ROUTES
from gateway.broker.uid import new_uid
from gateway.clock import Clock
from gateway.errors import BrokerUnavailable, GatewayError
from gateway.tasks import Slicer, Tasks
from protocol.position import MessageId

CHANNELS_PER_TURN, CHANNEL_MICROSECONDS = 200, 8
"""Channels that are resubscribed before other callbacks of the event loop may run, and how
long each takes."""

NO_MARKER = "-"
"""No marker has this token: all entries are dropped until the next `ADD_ROUTES` call is sent."""


class Routes:
    """The channels of one shard that have subscribers on this node, and their routes in Redis."""

    def __init__(
        self,
        pipeline: Pipeline,
        health: ShardHealth,
        keys: Keys,
        options: RedisOptions,
        tasks: Tasks,
        slicer: Slicer,
        *,
        incarnation: Callable[[], str],
        clock: Clock,
        held: HeldEntries,
        on_resubscribed: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare to route channels.

        Args:
            pipeline: Sends the calls, in order.
            health: Whether calls may fail now.
            keys: The shard's keys.
            options: Timeouts, and how long a route is kept after the last subscriber left.
            tasks: Owner of the background tasks.
            slicer: Shared by all long work of the node.
            incarnation: Returns the id of the node's present incarnation, which channels are routed to.
            clock: Monotonic seconds.
            held: Counts what all channels of a broker hold during backfills.
            on_resubscribed: Called after channels were resubscribed, whose entries may have been missed.
        """
        self.channels: OrderedDict[bytes, ChannelState] = OrderedDict()
        """The channels by their names; a pass over all of them moves each to the end (`next_channels`)."""
        self.era = 0
        """Counts how often every channel had to be resubscribed. The marker of a channel of an earlier era is
        not valid any more; `current` replaces it, and must be called before the channel is used."""
        self._pipeline = pipeline
        self._adds = RouteAdds(pipeline, health, keys, options, incarnation=incarnation)
        self._keys = keys
        self._options = options
        self._tasks = tasks
        self._slicer = slicer
        self._incarnation = incarnation
        self._clock = clock
        self._held = held
        self._on_resubscribed = on_resubscribed
        self._routes_to_remove: deque[tuple[float, ChannelState, int]] = deque()
        """Channels without subscribers: when to remove the route, and the generation since the last left."""
        self._removing_routes = False
        self._resubscribed_era = 0
        """The era up to which every channel was resubscribed."""
        self._retrying = False
        self._to_retry: dict[ChannelState, int] = {}
        """Channels whose `ADD_ROUTES` call failed, each with its generation at that time."""
        self._never_sent: set[ChannelState] = set()
        """Channels for which no `ADD_ROUTES` call was sent yet: they have no route to remove."""

    async def subscribe(self, name: str, retention: Retention | None) -> MessageId | None:
        """Route *name* to this node and return the position from which its subscriber begins.

        A channel without *retention* has no position. If Redis is unavailable, such a channel is routed when
        Redis is available again, and its subscribers get a gap; this call returns None at once.

        Raises:
            BrokerUnavailable: the channel has a history, and Redis did not answer in time.
        """
        has_history = retention is not None
        try:
            return await self._subscribe(name, has_history=has_history)
        except BrokerUnavailable:
            if has_history:
                raise
            self.subscribe_later(name)
            return None

    async def _subscribe(self, name: str, *, has_history: bool) -> MessageId | None:
        marker = new_uid()
        answer = self._adds.call(name, marker, has_history=has_history)
        channel = self._current_channel(name)
        if channel is None:
            channel = self.channels[name.encode()] = ChannelState(name, self._held, self.era)
        self._never_sent.discard(channel)
        generation_before = channel.generation
        channel.subscribe(marker, has_history=has_history)
        generation = channel.generation
        if generation != generation_before:
            channel.routed_era = self.era
        try:
            position: MessageId | None = await wait_for(answer, self._options.subscribe_timeout)
        except BaseException:
            # Redis may have added the route although the call failed: remove it.
            if generation_before != generation == channel.generation:
                self._unsubscribe(channel)
            raise
        start = channel.on_subscribe_reply(generation, position)
        # If the channel already has subscribers on this node, a further one starts at the position Redis
        # returned.
        return position if generation_before == generation else start

    def subscribe_later(self, name: str) -> None:
        """Route *name*, which has no history, as soon as Redis can be reached; return at once."""
        channel = self._current_channel(name)
        if channel is None:
            channel = self.channels[name.encode()] = ChannelState(name, self._held, self.era)
            self._never_sent.add(channel)
        if not (channel.subscribed and channel.marker):
            channel.subscribe(new_uid(), has_history=False)
            self._resubscribe(channel)

    def unsubscribe(self, name: str) -> None:
        """Stop delivering *name*; its route is kept for `RedisOptions.linger` seconds."""
        channel = self._current_channel(name)
        if channel is not None and channel.subscribed:
            self._unsubscribe(channel)

    # ------------------------------------------------------------ all channels

    def next_channels(self, count: int) -> list[ChannelState]:
        """Return the next *count* channels, or all if there are fewer, and move them to the end."""
        channels = self.channels
        keys = list(islice(channels, min(count, len(channels))))
        for key in keys:
            channels.move_to_end(key)
        return [channels[key] for key in keys]

    def on_new_incarnation(self) -> None:
        """Route every channel with subscribers to the new inbox; reaping removes the old routes.

        The other channels are forgotten when their time has come: the call that removes the route, which they
        no longer have, changes nothing.
        """
        self.resubscribe_all()

    def resubscribe_all(self) -> None:
        """Resubscribe every channel, each with a new marker: entries before the new marker may be missing.

        At once for the entries that arrive from now on; the calls are made in slices.
        """
        self.era += 1
        self._tasks.spawn(self._resubscribe_in_slices(self.era))

    @property
    def resubscribing(self) -> bool:
        """Whether channels are being resubscribed."""
        return self._resubscribed_era != self.era

    def current(self, channel: ChannelState) -> ChannelState:
        """Return *channel*, whose marker is invalid if it is of an earlier era: its entries are dropped."""
        if channel.era != self.era:
            channel.era = self.era
            channel.resubscribe(NO_MARKER)
        return channel

    def _current_channel(self, name: str) -> ChannelState | None:
        channel = self.channels.get(name.encode())
        return None if channel is None else self.current(channel)

    async def _resubscribe_in_slices(self, era: int) -> None:
        # A channel that is added meanwhile comes after those that were there, and is of this era.
        left, found = len(self.channels), False
        while left > 0:
            await self._slicer.turn(CHANNELS_PER_TURN * CHANNEL_MICROSECONDS)
            if era != self.era:
                return  # every channel is resubscribed once more
            for channel in self.next_channels(min(left, CHANNELS_PER_TURN)):
                left -= 1
                if channel.subscribed and channel.routed_era != era:
                    found = True
                    self._resubscribe(channel)
        self._resubscribed_era = era
        if found:
            self._report_resubscribed()

    def retry_failed(self) -> None:
        """Repeat the `ADD_ROUTES` calls that failed; called after each renewal of the lease."""
        if self._to_retry and not self._retrying:
            self._retrying = True
            self._tasks.spawn(self._retry_in_slices())

    async def _retry_in_slices(self) -> None:
        try:
            failed, self._to_retry = self._to_retry, {}
            while failed:
                await self._slicer.turn(CHANNELS_PER_TURN * CHANNEL_MICROSECONDS)
                for _ in range(min(len(failed), CHANNELS_PER_TURN)):
                    channel, generation = failed.popitem()
                    if channel.generation == generation and channel.era == self.era:
                        self._resubscribe(channel)
            self._report_resubscribed()
        finally:
            self._retrying = False

    def resubscribe(self, channels: Sequence[ChannelState]) -> None:
        """Resubscribe *channels*, whose routes are missing in Redis: entries may have been missed."""
        for channel in channels:
            self._resubscribe(channel)
        self._report_resubscribed()

    def send_waiting(self) -> None:
        """Send the `ADD_ROUTES` calls that wait for more routes: calls from now on find these routes."""
        self._adds.flush()

    def _report_resubscribed(self) -> None:
        # What is read because of it must not be older than the routes.
        self._adds.flush()
        self._on_resubscribed()

    def _resubscribe(self, channel: ChannelState) -> None:
        marker = new_uid()
        channel.era = channel.routed_era = era = self.era
        channel.resubscribe(marker)
        generation = channel.generation

        def on_done(answer: asyncio.Future[MessageId | None]) -> None:
            if (
                channel.marker == marker
                and era == self.era
                and (answer.cancelled() or answer.exception() is not None)
            ):
                self._to_retry[channel] = generation

        try:
            answer = self._adds.call(channel.name, marker, has_history=channel.has_history)
            answer.add_done_callback(on_done)
        except GatewayError:
            self._to_retry[channel] = generation
        else:
            self._never_sent.discard(channel)

    # ------------------------------------------------------------ removing routes

    def _unsubscribe(self, channel: ChannelState) -> None:
        channel.unsubscribe()
        if channel in self._never_sent:
            self._never_sent.discard(channel)
            self._to_retry.pop(channel, None)
            self._remove(channel)
            return
        self._remove_route_later(channel, channel.generation, self._options.linger)
        if not self._removing_routes:
            self._removing_routes = True
            self._tasks.spawn(self._remove_due_routes())

    def _remove_route_later(self, channel: ChannelState, generation: int, seconds: float) -> None:
        self._routes_to_remove.append((self._clock() + seconds, channel, generation))

    async def _remove_due_routes(self) -> None:
        """Remove each route that was kept for long enough, until no route is left to remove."""
        try:
            while self._routes_to_remove:
                await asyncio.sleep(max(0.0, self._routes_to_remove[0][0] - self._clock()))
                due = self._pop_due()
                removed = await _succeeded(self._call_remove_routes([channel.name for channel, _ in due]))
                for channel, generation in due:
                    if removed:
                        self._remove_unless_resubscribed(channel, generation)
                    else:
                        self._remove_route_later(channel, generation, max(1.0, self._options.linger))
        finally:
            self._removing_routes = False

    def _pop_due(self) -> list[tuple[ChannelState, int]]:
        """Dequeue and return the channels whose routes are due for removal, if still without subscriber."""
        due: list[tuple[ChannelState, int]] = []
        while (
            self._routes_to_remove
            and self._routes_to_remove[0][0] <= self._clock()
            and len(due) < ROUTES_PER_CALL
        ):
            _, channel, generation = self._routes_to_remove.popleft()
            if channel.generation == generation and self._is_current(channel):
                due.append((channel, generation))
        return due

    def _call_remove_routes(self, names: Sequence[str]) -> AnswerFuture | None:
        """Return the answer to a `REMOVE_ROUTES` call; None without *names*, or if it cannot be sent now.

        The pipeline keeps the order of calls: routes that were added before are removed, and routes
        of channels that are subscribed from now on are added after that.
        """
        if not names:
            return None
        keys, incarnation = self._keys, self._incarnation()
        self._adds.flush()
        try:
            return self._pipeline.call(
                REMOVE_ROUTES(
                    [keys.node_routes(incarnation), keys.routed_names, *map(keys.route, names)],
                    incarnation,
                    *names,
                )
            )
        except GatewayError:
            return None

    def _remove_unless_resubscribed(self, channel: ChannelState, generation: int) -> None:
        if channel.generation == generation:
            self._remove(channel)

    def _remove(self, channel: ChannelState) -> None:
        if self._is_current(channel):
            del self.channels[channel.name.encode()]

    def _is_current(self, channel: ChannelState) -> bool:
        """Whether `channels` has this state: after `on_new_incarnation` the name may have another one."""
        return self.channels.get(channel.name.encode()) is channel

    def __repr__(self) -> str:
        return f"<Routes {len(self.channels)} channels>"


async def _succeeded(answer: AnswerFuture | None) -> bool:
    """Wait for *answer*; return whether Redis carried out the call."""
    if answer is None:
        return False
    try:
        await answer
    except GatewayError:
        return False
    return True
