"""The local registry: which sessions are here, which channels they follow, and what reaches them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gateway.access.permissions import ChannelRules
from gateway.broker.base import Broker, ConnectionRecord, Delivery, Envelope, Instruction, NodeRecord
from gateway.clock import Clock, Scheduler, monotonic
from gateway.eager import Tasks
from gateway.hub.channel import Channel, Tally
from gateway.link.frames import Frames
from gateway.link.outbox import Flusher
from protocol.messages import Gap, Join, Leave

if TYPE_CHECKING:
    from gateway.hub.session import Session


class Hub:
    """Channels and their subscribers on one node; what a broker calls its `Node`."""

    def __init__(
        self, node: str, broker: Broker, *, scheduler: Scheduler, tasks: Tasks, clock: Clock = monotonic
    ) -> None:
        self.node = node
        self.broker = broker
        self.tasks = tasks
        self.flusher = Flusher(scheduler, self.settle)
        self.channels: dict[str, Channel] = {}
        self.sessions: dict[str, Session] = {}
        self.users: dict[str, dict[str, Session]] = {}
        self._waiting: list[Channel] = []
        self._clock = clock
        self._started = clock()
        self._messages = 0
        self._tally = Tally()

    # ------------------------------------------------------------ what a broker calls

    def deliver(self, envelope: Envelope) -> None:
        """Take what arrived for whoever follows its channel here, in the order of the calls."""
        if isinstance(envelope, Delivery):
            self._deliver(envelope)
        elif isinstance(envelope, Instruction):
            self._instruct(envelope)
        elif (channel := self.channels.get(envelope.channel)) is None:
            return
        elif isinstance(envelope, Gap):
            self._break(channel, envelope)
        else:
            self._announce(channel, envelope)

    def connections(self, user: str) -> Sequence[ConnectionRecord]:
        """Return the connections of *user* here."""
        return [session.record() for session in self.users.get(user, {}).values()]

    def following(self, prefix: str = "") -> Mapping[str, int]:
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
        if session.user:
            self.users.setdefault(session.user, {})[session.connection] = session

    def exit(self, session: Session) -> None:
        """Forget a session that is gone; harmless for one that never connected."""
        self.sessions.pop(session.connection, None)
        mine = self.users.get(session.user)
        if mine is not None:
            mine.pop(session.connection, None)
            if not mine:
                del self.users[session.user]

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
                self.tasks.start(self._unroute(channel.name))

    def settle(self) -> None:
        """Offer to every subscriber what was delivered since the last call."""
        waiting, self._waiting = self._waiting, []
        alone = len(waiting) == 1
        for channel in waiting:
            channel.settle(alone=alone)

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
        frames = Frames(delivery.message)
        if delivery.exclude:
            channel.offer_to(frames, delivery.exclude)
        elif channel.append(frames):
            self._waiting.append(channel)
            self.flusher.request()

    def _announce(self, channel: Channel, push: Join | Leave) -> None:
        if channel.watchers:
            channel.announce(push, unless=push.member.connection)

    def _break(self, channel: Channel, gap: Gap) -> None:
        channel.reset(gap.position)
        for subscriptions in list(channel.audience.values()):
            for subscription in list(subscriptions):
                subscription.behind = None
                subscription.outbox.push(subscription.gap(gap.position, gap.reason))

    def _instruct(self, instruction: Instruction) -> None:
        for session in list(self.users.get(instruction.user, {}).values()):
            if session.connection not in instruction.spare:
                session.instruct(instruction)

    async def _route(self, channel: Channel) -> None:
        if channel.routing is not None:
            await asyncio.shield(channel.routing)
            return
        channel.routing = asyncio.get_running_loop().create_future()
        try:
            channel.begin(await self.broker.subscribe(channel.name, channel.retention))
        except BaseException as error:
            channel.routing.set_exception(error)
            channel.routing.exception()  # it may have nobody else to tell
            raise
        else:
            channel.routed = True
            channel.routing.set_result(None)
        finally:
            channel.routing = None

    async def _unroute(self, name: str) -> None:
        if name not in self.channels:
            await self.broker.unsubscribe(name)

    def __repr__(self) -> str:
        return f"<Hub {self.node} {len(self.sessions)} sessions {len(self.channels)} channels>"
