"""The local registry: which sessions are here, which channels they follow, and what reaches them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gateway.access.permissions import ChannelRules
from gateway.broker.base import (
    Broker,
    ConnectionRecord,
    Delivery,
    Envelope,
    HistoryCleared,
    NodeRecord,
    PossibleLoss,
    UserCommand,
)
from gateway.clock import Clock, Scheduler, monotonic, wall
from gateway.delivery.encoding import EncodedMessage
from gateway.delivery.outbox import Flusher
from gateway.errors import GatewayError
from gateway.hub.channel import Channel, DeliveryCounter
from gateway.hub.history_cache import HistoryCache
from gateway.tasks import Tasks
from protocol.messages import Gap

if TYPE_CHECKING:
    from gateway.hub.session import Session


PACE, PACE_LIMIT = 0.005, 1.0
"""Seconds between two looks at whether clients take more, and until a publisher waits no longer.

Looks, although a socket could tell when it takes more: publishers who are woken at once fill it with the next
message again, and a fifth less went through (`bench/compare.py`, `max`).
"""

PACE_LEAST = 32
"""Full sockets that slow no publisher down, however few clients there are."""


class Hub:
    """Channels and their subscribers on one node; what a broker calls its `Node`."""

    def __init__(
        self,
        node: str,
        broker: Broker,
        *,
        scheduler: Scheduler,
        tasks: Tasks,
        clock: Clock = monotonic,
        wall_clock: Clock = wall,
    ) -> None:
        """Serve what *broker* delivers to *node*."""
        self.node = node
        self.broker = broker
        self.tasks = tasks
        self.flusher = Flusher(scheduler, self.settle, clock, rest=broker.flush_delay)
        self.pages = HistoryCache(broker)
        self.channels: dict[str, Channel] = {}
        self.sessions: dict[str, Session] = {}
        self.users: dict[str, dict[str, Session]] = {}
        self._waiting: list[Channel] = []
        self._unrouting: dict[str, asyncio.Task[None]] = {}
        self._clock = clock
        self.wall = wall_clock
        self._started = clock()
        self.closed: Counter[int] = Counter()
        """How many connections were closed from here, by close code."""
        self._messages = 0
        self._tally = DeliveryCounter()

    # ------------------------------------------------------------ what a broker calls

    def deliver(self, envelope: Envelope) -> None:
        """Take what arrived for whoever follows its channel here, in the order of the calls."""
        if isinstance(envelope, Delivery):
            self._deliver(envelope)
        elif isinstance(envelope, UserCommand):
            self._instruct(envelope)
        elif (channel := self.channels.get(envelope.channel)) is None:
            return
        elif isinstance(envelope, Gap):
            self._break(channel, envelope)
        elif isinstance(envelope, HistoryCleared):
            channel.forget()
        elif isinstance(envelope, PossibleLoss):
            _warn_watchers(channel)
        else:
            channel.announce(envelope)

    def connections(self, user: str) -> Sequence[ConnectionRecord]:
        """Return the connections of *user* here."""
        return [session.record() for session in self.users.get(user, {}).values()]

    def subscribed_channels(self, prefix: str = "") -> Mapping[str, int]:
        """Return the channels followed here, each with its number of subscribers."""
        return {
            name: size
            for name, channel in self.channels.items()
            if name.startswith(prefix) and (size := len(channel))
        }

    def record(self) -> NodeRecord:
        """Return what this node says of itself."""
        return NodeRecord(
            node=self.node,
            connections=len(self.sessions),
            channels=len(self.channels),
            subscriptions=sum(map(len, self.channels.values())),
            uptime=self._clock() - self._started,
            figures=self.statistics(),
        )

    # ------------------------------------------------------------ what sessions call

    def enter(self, session: Session) -> None:
        """Register a session that has connected."""
        self.sessions[session.connection] = session
        if not session.user:
            return
        if session.user not in self.users:
            self.users[session.user] = {}
            self.tasks.start(self.broker.user_connected(session.user))
        self.users[session.user][session.connection] = session

    def exit(self, session: Session) -> None:
        """Forget a session that is gone; harmless for one that never connected."""
        self.sessions.pop(session.connection, None)
        mine = self.users.get(session.user)
        if mine is not None:
            mine.pop(session.connection, None)
            if not mine:
                del self.users[session.user]
                self.tasks.start(self.broker.user_disconnected(session.user))

    async def hold(self, name: str, rules: ChannelRules) -> Channel:
        """Return the channel *name*, routed to this node; whoever holds it owes a `release`.

        Only the first to hold a channel asks the broker; others who come meanwhile wait for the same answer.
        """
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name, rules, self._tally)
        channel.holds += 1
        if not channel.routed:
            try:
                await self._route(channel)
            except BaseException:
                self.release(channel)
                raise
        return channel

    def release(self, channel: Channel) -> None:
        """Give up one hold; a channel that nobody follows or holds is no longer routed here."""
        channel.holds -= 1
        self.tidy(channel)

    def tidy(self, channel: Channel) -> None:
        """Forget *channel* if nobody follows it."""
        if channel.idle and self.channels.get(channel.name) is channel:
            del self.channels[channel.name]
            if channel.routed:
                channel.routed = False
                self._unroute(channel.name)

    def settle(self) -> None:
        """Offer to every subscriber what was delivered since the last call."""
        waiting, self._waiting = self._waiting, []
        alone = len(waiting) == 1
        for channel in waiting:
            try:
                channel.settle(alone=alone)
            except Exception as error:  # noqa: BLE001 (what one channel cannot say must not silence the others)
                self.tasks.report(error)

    async def pace(self) -> None:
        """Wait while most clients' sockets are full, `PACE_LIMIT` seconds at most: publishers wait for this.

        One slow phone stops nobody. But who publishes faster than the clients of a node take together only
        fills every buffer on the way, until each is too slow: then a later answer is the kinder one.
        """
        waited = 0.0
        while self._crowded() and waited < PACE_LIMIT:
            await asyncio.sleep(PACE)
            waited += PACE

    def _crowded(self) -> bool:
        return len(self.flusher.full) > max(PACE_LEAST, len(self.sessions) // 2)

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes."""
        return {
            "sessions": len(self.sessions),
            "users": len(self.users),
            "channels": len(self.channels),
            "messages": self._messages,
            "deliveries": self._tally.deliveries,
        }

    # ------------------------------------------------------------ inside

    def _deliver(self, delivery: Delivery) -> None:
        channel = self.channels.get(delivery.message.channel)
        if channel is None:
            return
        self._messages += 1
        frames = EncodedMessage(delivery.message)
        if delivery.exclude:
            channel.offer_to(frames, delivery.exclude)
        elif channel.append(frames):
            self._waiting.append(channel)
            self.flusher.request()

    def _break(self, channel: Channel, gap: Gap) -> None:
        channel.reset(gap.position)
        for subscriptions in list(channel.audience.values()):
            for subscription in list(subscriptions):
                subscription.session.go_live(subscription)
                subscription.outbox.push(subscription.gap(gap.position, gap.reason))

    def _instruct(self, instruction: UserCommand) -> None:
        for session in list(self.users.get(instruction.user, {}).values()):
            late = instruction.issued_before is not None and session.since >= instruction.issued_before
            if session.connection not in instruction.except_connections and not late:
                session.instruct(instruction)

    async def _route(self, channel: Channel) -> None:
        """Ask the broker to route *channel* here, or wait for who asks already; share its failure, too."""
        while not channel.routed:
            if channel.routing is None:
                await self._ask(channel)
            else:
                # After one who was cancelled, another asks.
                await asyncio.shield(channel.routing)

    async def _ask(self, channel: Channel) -> None:
        routing = channel.routing = asyncio.get_running_loop().create_future()
        try:
            if (unrouting := self._unrouting.get(channel.name)) is not None:
                # Else the broker might hear that nobody listens any more after it heard that somebody does.
                await asyncio.wait([unrouting])
                channel.restart()
            channel.begin(await self.broker.subscribe(channel.name, channel.retention))
            channel.routed = True
        except Exception as error:
            routing.set_exception(error)
            routing.exception()  # it may have nobody else to tell
            raise
        finally:
            channel.routing = None
            if not routing.done():
                routing.set_result(None)

    def _unroute(self, name: str) -> None:
        outcome = self.tasks.start(self._give_up(name))
        if outcome is not None:
            self._unrouting[name] = outcome
            outcome.add_done_callback(lambda _: self._unrouting.pop(name))

    async def _give_up(self, name: str) -> None:
        try:
            await self.broker.unsubscribe(name)
        except GatewayError:
            # What still arrives finds nobody here; the route ends with this node's lease at the latest.
            return

    def __repr__(self) -> str:
        return f"<Hub {self.node} {len(self.sessions)} sessions {len(self.channels)} channels>"


def _warn_watchers(channel: Channel) -> None:
    """Tell those who watch joins and leaves that some may be missing; once they are live, where behind."""
    channel.settle()
    for subscription in list(channel.watchers):
        if subscription.behind is not None:
            subscription.missed = True
        else:
            subscription.outbox.push(subscription.gap(channel.top, "trimmed"))
