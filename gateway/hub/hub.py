"""The local registry: the sessions of this node, their channels, and what the broker delivers to them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Protocol

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
from gateway.delivery.flusher import Flusher
from gateway.errors import GatewayError
from gateway.hub.backpressure import Backpressure
from gateway.hub.channel import Channel, ChannelSubscriber, ChannelTotals
from gateway.hub.history_cache import HistoryCache
from gateway.hub.history_reads import HistoryReads
from gateway.hub.presence_pushes import PresencePushes, delay_for
from gateway.hub.sorted_names import SortedNames
from gateway.memory import NodeMemory
from gateway.tasks import Tasks
from protocol.messages import Gap, ServerMessage

SESSIONS_PER_TURN = 100
"""Sessions whose timers are set again in one turn of the event loop."""


class LocalSession(Protocol):
    """A session, as far as the hub knows it."""

    @property
    def connection(self) -> str:
        """The id of the connection."""

    @property
    def user(self) -> str:
        """Its user; empty for an anonymous connection."""

    @property
    def opened_at(self) -> float:
        """When it was opened, by the clock of `UserCommand.issued_before`."""

    def as_record(self) -> ConnectionRecord:
        """Return what the push API shows of it."""

    def execute(self, command: UserCommand) -> None:
        """Carry out a command of the push API."""

    def on_clock_step(self) -> None:
        """Set the timers of its tokens again."""

    def send(self, message: ServerMessage) -> None:
        """Enqueue a push."""

    def close(self, code: int, reason: str = "") -> None:
        """Write what waits, then a Close frame with *code*, and end."""


class Hub:
    """Channels and their subscribers on one node; what a broker calls its `LocalNode`."""

    def __init__(
        self,
        node: str,
        broker: Broker,
        *,
        scheduler: Scheduler,
        tasks: Tasks,
        clock: Clock = monotonic,
        wall_clock: Clock = wall,
        memory: NodeMemory | None = None,
    ) -> None:
        """Serve what *broker* delivers to *node*; *memory* is what clients may make it hold."""
        self.node = node
        self.memory = memory = memory or NodeMemory()
        self.broker = broker
        self.tasks = tasks
        self._scheduler = scheduler
        self.flusher = Flusher(
            scheduler, self.flush_channels, clock, delay=broker.flush_delay, memory=memory.outboxes
        )
        self.history_reads = HistoryReads(broker)
        self.history_cache = HistoryCache(self.history_reads, memory.history_pages)
        self.channels: dict[str, Channel] = {}
        self._names = SortedNames()
        """The names of `channels`."""
        self.sessions: dict[str, LocalSession] = {}
        """Connected sessions, by connection id."""
        self.users: dict[str, dict[str, LocalSession]] = {}
        """Connected sessions, by user and connection id."""
        self.commands_waiting = 0
        """Commands in the backlogs of all sessions."""
        self.backpressure = Backpressure(self.flusher.full_outboxes, self.sessions, self.channels, clock)
        self._channels_to_flush: list[Channel] = []
        self._presences_to_push: list[PresencePushes[ChannelSubscriber]] = []
        self._unrouting: dict[str, asyncio.Task[None]] = {}
        """Calls that end the route of a channel, while they run."""
        self._clock = clock
        self.wall_clock = wall_clock
        self._started = clock()
        self.close_counts: Counter[int] = Counter()
        """How many connections this node has closed, by close code."""
        self._messages = 0
        self._totals = ChannelTotals(memory)

    # ------------------------------------------------------------ what a broker calls

    def deliver(self, envelope: Envelope) -> None:
        """Handle what the broker delivers; ignore it if the channel has no subscriber here."""
        if isinstance(envelope, Delivery):
            self._deliver(envelope)
        elif isinstance(envelope, UserCommand):
            self._execute(envelope)
        elif (channel := self.channels.get(envelope.channel)) is None:
            return
        elif isinstance(envelope, Gap):
            _reset(channel, envelope)
        elif isinstance(envelope, HistoryCleared):
            channel.clear_history()
        elif isinstance(envelope, PossibleLoss):
            _push_presence_gap(channel)
        else:
            channel.collect_presence(envelope)
            if channel.presence is not None and not channel.presence.scheduled:
                self._schedule(channel.presence)

    def connections(self, user: str) -> Sequence[ConnectionRecord]:
        """Return the connections of *user* here."""
        return [session.as_record() for session in self.users.get(user, {}).values()]

    def subscribed_channels(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Mapping[str, int]:
        """Return the number of subscribers here of channels after *after*, by name, whose names start so."""
        with_subscribers = (
            (name, size)
            for name in self._names.after(after, prefix=prefix)
            if (size := len(self.channels[name]))
        )
        return dict(islice(with_subscribers, limit))

    def subscribers(self, channel: str) -> int:
        """Return the number of subscribers here of *channel*."""
        local = self.channels.get(channel)
        return 0 if local is None else len(local)

    def as_record(self) -> NodeRecord:
        """Return what the push API shows of this node."""
        return NodeRecord(
            node=self.node,
            connections=len(self.sessions),
            channels=len(self.channels),
            subscriptions=self._totals.subscriptions,
            uptime=self._clock() - self._started,
            figures=self.statistics(),
        )

    # ------------------------------------------------------------ what sessions call

    def register(self, session: LocalSession) -> None:
        """Add a session that has connected."""
        self.sessions[session.connection] = session
        if not session.user:
            return
        if session.user not in self.users:
            self.users[session.user] = {}
            self.tasks.start(self.broker.user_connected(session.user))
        self.users[session.user][session.connection] = session

    def unregister(self, session: LocalSession) -> None:
        """Remove a session that has ended; does nothing for one that never connected."""
        self.sessions.pop(session.connection, None)
        user_sessions = self.users.get(session.user)
        if user_sessions is not None:
            user_sessions.pop(session.connection, None)
            if not user_sessions:
                del self.users[session.user]
                self.tasks.start(self.broker.user_disconnected(session.user))

    async def acquire_channel(self, name: str, rules: ChannelRules) -> Channel:
        """Return the channel *name*, routed to this node; the caller must call `release_channel` once.

        Only the first caller asks the broker; callers that come meanwhile wait for the same answer.
        """
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name, rules, self._totals)
            self._names.add(name)
        channel.pending_subscriptions += 1
        if not channel.routed:
            try:
                await self._route(channel)
            except BaseException:
                self.release_channel(channel)
                raise
        return channel

    def release_channel(self, channel: Channel) -> None:
        """Undo one `acquire_channel`; an idle channel is no longer routed to this node."""
        channel.pending_subscriptions -= 1
        self.discard_if_idle(channel)

    def discard_if_idle(self, channel: Channel) -> None:
        """Remove *channel* and end its route, if it has no subscriber and none is being prepared."""
        if channel.idle and self.channels.get(channel.name) is channel:
            del self.channels[channel.name]
            self._names.remove(channel.name)
            channel.discard_state()
            if channel.routed:
                channel.routed = False
                self._start_unrouting(channel.name)

    async def on_clock_step(self) -> None:
        """Go by the wall clock as it is now: end expired tokens, and ask the broker what history keeps."""
        for channel in list(self.channels.values()):
            channel.discard_newest_messages()
        for number, session in enumerate(list(self.sessions.values())):
            session.on_clock_step()
            if number % SESSIONS_PER_TURN == SESSIONS_PER_TURN - 1:
                await asyncio.sleep(0)

    # ------------------------------------------------------------ what the flusher calls

    def flush_channels(self) -> None:
        """Offer to every subscriber the messages that were delivered since the last call."""
        presences, self._presences_to_push = self._presences_to_push, []
        channels, self._channels_to_flush = self._channels_to_flush, []
        only_channel = len(channels) == 1 and not presences
        for channel in channels:
            try:
                channel.offer_pending(only_channel=only_channel)
            except Exception as error:  # noqa: BLE001 (an error in one channel must not stop the others)
                self.tasks.report(error)
        for presence in presences:
            self._push_waiting(presence)

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes."""
        return {
            "sessions": len(self.sessions),
            "users": len(self.users),
            "channels": len(self.channels),
            "messages": self._messages,
            "deliveries": self._totals.deliveries,
            "behind": self._totals.behind,
            "commands_waiting": self.commands_waiting,
            "cached_bytes": self.memory.newest_messages.used,
        }

    # ------------------------------------------------------------ inside

    def _deliver(self, delivery: Delivery) -> None:
        channel = self.channels.get(delivery.message.channel)
        if channel is None:
            return
        self._messages += 1
        encoded = EncodedMessage(delivery.message)
        if delivery.exclude:
            channel.offer_excluding(encoded, delivery.exclude)
        elif channel.collect(encoded):
            self._channels_to_flush.append(channel)
            self.flusher.request()

    def _schedule(self, presence: PresencePushes[ChannelSubscriber]) -> None:
        """Push what waits at the end of the turn or, with many watchers, after a delay."""
        presence.scheduled = True
        if delay := delay_for(len(presence.watchers)):
            self._scheduler.call_later(delay, partial(self._push_waiting, presence))
        else:
            self._presences_to_push.append(presence)
            self.flusher.request()

    def _push_waiting(self, presence: PresencePushes[ChannelSubscriber]) -> None:
        presence.scheduled = False
        try:
            presence.push_waiting()
        except Exception as error:  # noqa: BLE001 (an error in one channel must not stop the others)
            self.tasks.report(error)

    def _execute(self, command: UserCommand) -> None:
        for session in list(self.users.get(command.user, {}).values()):
            connected_later = command.issued_before is not None and session.opened_at >= command.issued_before
            if session.connection not in command.except_connections and not connected_later:
                session.execute(command)

    async def _route(self, channel: Channel) -> None:
        """Ask the broker to route *channel* here, or share the answer of a caller that asks already."""
        while not channel.routed:
            if channel.routing is None:
                await self._request_route(channel)
            else:
                # If the caller that asks is cancelled, the next caller asks.
                await asyncio.shield(channel.routing)

    async def _request_route(self, channel: Channel) -> None:
        routing = channel.routing = asyncio.get_running_loop().create_future()
        try:
            if (unrouting := self._unrouting.get(channel.name)) is not None:
                # Otherwise the broker might get the `unsubscribe` after this `subscribe`.
                await asyncio.wait([unrouting])
                channel.discard_state()
            channel.start_at(await self.broker.subscribe(channel.name, channel.retention))
            channel.routed = True
        except Exception as error:
            routing.set_exception(error)
            routing.exception()  # marks it as retrieved: perhaps no other caller waits for it
            raise
        finally:
            channel.routing = None
            if not routing.done():
                routing.set_result(None)

    def _start_unrouting(self, name: str) -> None:
        outcome = self.tasks.start(self._unroute(name))
        if outcome is not None:
            self._unrouting[name] = outcome
            outcome.add_done_callback(lambda _: self._unrouting.pop(name))

    async def _unroute(self, name: str) -> None:
        try:
            await self.broker.unsubscribe(name)
        except GatewayError:
            # What still arrives finds no subscriber; the route ends with this node's lease at the latest.
            return

    def __repr__(self) -> str:
        return f"<Hub {self.node} {len(self.sessions)} sessions {len(self.channels)} channels>"


def _reset(channel: Channel, gap: Gap) -> None:
    """Start a new history in *channel*, and push *gap* to every subscriber, which is live from then on."""
    channel.reset(gap.position)
    for subscriptions in list(channel.subscribers.values()):
        for subscription in list(subscriptions):
            subscription.go_live()
            subscription.outbox.enqueue(subscription.gap_frame(gap.position, gap.reason))


def _push_presence_gap(channel: Channel) -> None:
    """Push a gap to subscribers that watch presence, to those behind once they are live."""
    if channel.presence is None:
        return
    channel.offer_pending()
    channel.presence.push_waiting()
    for subscription in list(channel.presence.watchers):
        if subscription.behind is not None:
            subscription.missed_unnumbered = True
        else:
            subscription.outbox.enqueue(subscription.gap_frame(channel.position, "trimmed"))
