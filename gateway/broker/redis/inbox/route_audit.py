"""Regular checks that Redis still has the routes of this node.

Fanway itself never removes the route of a channel with subscribers. But a Redis that evicts keys can remove a
route, and so can a person with `redis-cli`. Then the node would receive no more messages of the channel, and
would not notice (docs/redis.md#what-is-in-it). The same checks extend the TTL of the channels' positions, so
that Redis keeps the position of a channel with subscribers even if nothing is published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

from gateway.broker.notices import OnNotice, RoutesMissing
from gateway.broker.redis.connection.pipeline import AnswerFuture, Pipeline
from gateway.broker.redis.inbox.channel_state import ChannelState
from gateway.broker.redis.inbox.routes import Routes
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import AUDIT_ROUTES, milliseconds
from gateway.errors import GatewayError
from gateway.tasks import Slicer, Tasks

CHANNELS_PER_CALL, CHANNEL_MICROSECONDS = 200, 5
"""Channels that one call checks: 0.9 ms of Redis' time; and the time of this node for each of them."""

ROUNDS_PER_META_TTL = 3
"""Each channel is checked at least this often within one `meta_ttl`, after which Redis forgets the position
of an unused channel."""


class RouteAudit:
    """Checks the routes of one shard: the next few channels with each renewal of the lease."""

    def __init__(
        self,
        pipeline: Pipeline,
        keys: Keys,
        options: RedisOptions,
        tasks: Tasks,
        slicer: Slicer,
        routes: Routes,
        *,
        incarnation: Callable[[], str],
        interval: float,
        on_notice: OnNotice,
    ) -> None:
        """Prepare to check.

        Args:
            pipeline: Sends the calls.
            keys: The shard's keys.
            options: How long Redis keeps a position.
            tasks: Owner of the calls.
            slicer: Shared by all long work of the node.
            routes: The channels to check.
            incarnation: Returns the id of the present incarnation, which channels are routed to.
            interval: Seconds between two calls of `check_next`.
            on_notice: Gets `RoutesMissing` if routes were missing.
        """
        self._pipeline = pipeline
        self._keys = keys
        self._meta_ttl = options.meta_ttl
        self._tasks = tasks
        self._slicer = slicer
        self._routes = routes
        self._incarnation = incarnation
        self._share_per_interval = interval * ROUNDS_PER_META_TTL / options.meta_ttl
        self._on_notice = on_notice
        self._checking = False
        self.resubscribed = 0
        """Channels that were resubscribed because their routes were missing."""

    def check_next(self) -> None:
        """Check the next channels, in the background, unless they are being resubscribed anyway."""
        if not self._checking and self._routes.channels and not self._routes.resubscribing:
            self._checking = True
            self._tasks.spawn(self._check_in_slices(self._incarnation()))

    async def _check_in_slices(self, incarnation: str) -> None:
        try:
            left = min(len(self._routes.channels), max(CHANNELS_PER_CALL, ceil(self._share())))
            while left > 0 and not self._routes.resubscribing:
                await self._slicer.turn(CHANNELS_PER_CALL * CHANNEL_MICROSECONDS)
                batch = self._routes.next_channels(min(left, CHANNELS_PER_CALL))
                left -= CHANNELS_PER_CALL
                subscribed = [(channel, channel.marker) for channel in batch if channel.subscribed]
                if subscribed:
                    await self._check(subscribed, incarnation)
        finally:
            self._checking = False

    def _share(self) -> float:
        """Return how many channels have to be checked after each renewal of the lease."""
        return len(self._routes.channels) * self._share_per_interval

    async def _check(self, channels: Sequence[tuple[ChannelState, str]], incarnation: str) -> None:
        """Resubscribe the *channels*, given with their markers, that have no route to *incarnation*."""
        try:
            missing = await self._call_audit([channel.name for channel, _ in channels], incarnation)
        except GatewayError:
            return  # the next round checks them
        if incarnation != self._incarnation():
            return  # another incarnation has started, and resubscribes every channel itself
        # A channel with another marker was resubscribed after the call was sent.
        lost = [
            channel
            for channel, marker in (channels[number - 1] for number in missing)
            if channel.subscribed and channel.marker == marker
        ]
        if lost:
            self.resubscribed += len(lost)
            self._on_notice(RoutesMissing(len(lost)))
            self._routes.resubscribe(lost)

    def _call_audit(self, names: Sequence[str], incarnation: str) -> AnswerFuture:
        self._routes.send_waiting()
        keys = self._keys
        pairs = [key for name in names for key in (keys.meta(name), keys.route(name))]
        return self._pipeline.call(
            AUDIT_ROUTES(
                [keys.node_routes(incarnation), *pairs], incarnation, milliseconds(self._meta_ttl), *names
            )
        )

    def __repr__(self) -> str:
        return f"<RouteAudit {self.resubscribed} resubscribed>"
