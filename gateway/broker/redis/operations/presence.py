"""Who is in a channel, across nodes; and who of them is here, should Redis forget."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from gateway.broker.base import Presence, PresenceCount
from gateway.broker.redis import codec
from gateway.broker.redis.connection.pipeline import Answer, Pipeline, wait_for
from gateway.broker.redis.connection.single_flight import SingleFlight
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import COUNT_MEMBERS, JOIN, LEAVE, Command
from gateway.errors import GatewayError
from protocol.messages import Member

TURN = 200
"""Members of whom Redis is told again, or who are unpacked, before others get their turn of the loop."""


class PresenceStore:
    """The members of one shard's channels."""

    def __init__(self, line: Pipeline, reads: Pipeline, keys: Keys, options: RedisOptions) -> None:
        """Write by *line*, read by *reads*."""
        self.node = ""
        """The incarnation that members belong to."""
        self._line = line
        self._keys = keys
        self._options = options
        self._mine: dict[tuple[str, str], Member] = {}
        self._owed: dict[tuple[str, str], None] = {}
        """Leaves that Redis has not heard of."""
        self._unsure: dict[tuple[str, str], bool] = {}
        """Members of ours that Redis may not know of, and whether to announce them."""
        seconds = options.presence_timeout
        self._members = SingleFlight(reads, command=self._read, parse=_roster, timeout=seconds)
        self._counts = SingleFlight(reads, command=self._count, parse=_counted, timeout=seconds)

    async def join(self, channel: str, member: Member) -> None:
        """Add *member*."""
        place = (channel, member.connection)
        answer = self._join(channel, member, announce=True)
        self._mine[place] = member
        self._owed.pop(place, None)
        try:
            await wait_for(answer, self._options.presence_timeout)
        except BaseException:
            # Perhaps it was added all the same.
            self._mine.pop(place, None)
            self._owed[place] = None
            raise

    async def leave(self, channel: str, connection: str) -> None:
        """Remove the member: as soon as Redis can be told of it."""
        place = (channel, connection)
        if self._mine.pop(place, None) is not None:
            self._owed[place] = None
        # Owed only where Redis was asked to join: else what is tried while it is away would pile up here.
        try:
            await wait_for(self._leave(*place), self._options.presence_timeout)
        except GatewayError:
            return
        self._owed.pop(place, None)

    async def presence(self, channel: str) -> Presence:
        """Return who is in *channel*, those who came first first."""
        roster = await self._members.get(channel)
        return await roster.presence()

    async def count(self, channel: str) -> PresenceCount:
        """Return how many are in *channel*; that costs the same however many they are."""
        return await self._counts.get(channel)

    async def rejoin(self, *, announce: bool) -> None:
        """Tell Redis of every member here; *announce* where others have been told that they left."""
        node = self.node
        self._unsure.clear()
        for number, place in enumerate(list(self._mine), start=1):
            if node != self.node:
                return  # another incarnation has begun, and does this itself
            if place in self._mine:
                self._rejoin(place, announce=announce)
            if number % TURN == 0:
                await asyncio.sleep(0)

    def settle(self) -> None:
        """Tell Redis of what it has not heard of yet."""
        for place in list(self._owed):
            self._repay(place)
        unsure, self._unsure = self._unsure, {}
        for place, announce in unsure.items():
            if place in self._mine:
                self._rejoin(place, announce=announce)

    # ------------------------------------------------------------ inside

    def _read(self, channel: str) -> Command:
        # Values alone: each tells its connection.
        return ("HVALS", self._keys.members(channel))

    def _count(self, channel: str) -> Command:
        return COUNT_MEMBERS([self._keys.members(channel), self._keys.user_counts(channel)])

    def _join(self, channel: str, member: Member, *, announce: bool) -> Answer:
        keys, node = self._keys, self.node
        return self._line.call(
            JOIN(
                [
                    keys.state,
                    keys.beats,
                    keys.members(channel),
                    keys.user_counts(channel),
                    keys.route(channel),
                    keys.nodes,
                    keys.node_members(node),
                ],
                keys.inbox_prefix,
                self._options.inbox_limit,
                keys.node_members_prefix,
                node,
                member.connection,
                channel,
                codec.pack_member(member),
                int(announce),
            )
        )

    def _leave(self, channel: str, connection: str) -> Answer:
        keys = self._keys
        return self._line.call(
            LEAVE(
                [keys.members(channel), keys.user_counts(channel), keys.route(channel), keys.beats],
                keys.inbox_prefix,
                self._options.inbox_limit,
                keys.node_members_prefix,
                connection,
                channel,
                self.node,
            )
        )

    def _rejoin(self, place: tuple[str, str], *, announce: bool) -> None:
        def check(done: Answer) -> None:
            if done.cancelled() or done.exception() is not None:
                self._unsure[place] = announce

        try:
            self._join(place[0], self._mine[place], announce=announce).add_done_callback(check)
        except GatewayError:
            self._unsure[place] = announce

    def _repay(self, place: tuple[str, str]) -> None:
        def check(done: Answer) -> None:
            if not done.cancelled() and done.exception() is None and place not in self._mine:
                self._owed.pop(place, None)

        with contextlib.suppress(GatewayError):
            self._leave(*place).add_done_callback(check)

    def __repr__(self) -> str:
        return f"<Rosters {len(self._mine)} members here {len(self._owed)} leaves owed>"


class _Roster:
    """The members that Redis has told of, unpacked once: by the first who asks, for all the others."""

    __slots__ = ("_presence", "_unpacking", "_who")

    def __init__(self, who: Sequence[bytes]) -> None:
        self._who = who
        self._unpacking = asyncio.Lock()
        self._presence: Presence | None = None

    async def presence(self) -> Presence:
        async with self._unpacking:
            if self._presence is None:
                self._presence = await unpacked(self._who)
            return self._presence


async def unpacked(who: Sequence[bytes]) -> Presence:
    """Return the members that stand in *who*, those who came first first."""
    ordered = sorted(_entry(value) for value in who)
    members: list[Member] = []
    for start in range(0, len(ordered), TURN):
        if start:
            await asyncio.sleep(0)
        members += [codec.unpack_member(body) for _, body in ordered[start : start + TURN]]
    return Presence(tuple(members))


def _roster(_: str, who: Sequence[bytes]) -> _Roster:
    return _Roster(who)


def _counted(_: str, told: Sequence[int]) -> PresenceCount:
    return PresenceCount(*told)


def _entry(value: bytes) -> tuple[int, bytes]:
    came, _, body = value.split(b" ", 2)
    return int(came), body
