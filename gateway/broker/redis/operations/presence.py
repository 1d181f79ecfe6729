"""The members of channels across all nodes; adds the members of this node again if Redis has lost them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from operator import itemgetter

from gateway.broker.base import Presence, PresenceCount
from gateway.broker.redis import codec
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pipeline import AnswerFuture, Pipeline, wait_for
from gateway.broker.redis.connection.single_flight import SingleFlight
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.operations.member_writes import JoinKind, MemberWrites
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import COUNT_MEMBERS, END_GRACES, Command, milliseconds
from gateway.broker.redis.timeouts import (
    GRACE_MAX_SECONDS,
    GRACE_SLACK_SECONDS,
    MEMBER_WRITES_CLOSE_TIMEOUT_SECONDS,
)
from gateway.broker.uid import new_uid
from gateway.errors import GatewayError
from gateway.presence.grace_timer import GraceTimer
from gateway.tasks import Slicer
from protocol.messages import Member

MEMBERS_PER_TURN = 200
"""Members that are added again, or decoded, before other callbacks of the event loop may run."""

LIST_WEIGHT = 500
"""Members that a list may have: the number is not known before the answer."""

DECODE_MICROSECONDS = 2
"""For one member."""

GRACES_PER_CALL = 100
"""Graces of nodes that have ended, which one call ends at most."""

Place = tuple[str, str]
"""A channel and a connection."""


class PresenceStore:
    """The members of one shard's channels."""

    def __init__(
        self,
        pipeline: Pipeline,
        reads: Pipeline,
        health: ShardHealth,
        keys: Keys,
        options: RedisOptions,
        slicer: Slicer,
    ) -> None:
        """Write over *pipeline*, read over *reads*; decode long lists in slices."""
        self.incarnation = ""
        """The id of this node's present incarnation, which owns the members of this node."""
        self._pipeline = pipeline
        self._keys = keys
        self._options = options
        self._writes = MemberWrites(pipeline, health, keys, options, incarnation=lambda: self.incarnation)
        self._local_members: dict[Place, Member] = {}
        """The members that are connected to this node, as they are listed."""
        self._leaves_to_retry: dict[Place, float] = {}
        """Members that may still be in Redis although they have left, and their grace in seconds."""
        self._joins_to_retry: dict[Place, None] = {}
        """Local members that may be missing in Redis."""
        self._graces: GraceTimer[tuple[Place, str]] = GraceTimer(self._on_graces_ended)
        """Members whose connection has ended here, each with the token of its grace."""
        self.graces_refused = 0
        """Leaves that were not delayed because `GraceTimer` was full."""
        timeout = options.presence_timeout
        self._members = SingleFlight(
            reads,
            command=self._members_command,
            parse=partial(_StoredMembers, slicer),
            timeout=timeout,
            weight=lambda _: LIST_WEIGHT,
        )
        self._counts = SingleFlight(reads, command=self._count_command, parse=_parse_count, timeout=timeout)

    async def join(self, channel: str, member: Member) -> Member:
        """Add *member*, and return it as it is listed; if the member is new, subscribers get a `Join`.

        Raises:
            BrokerUnavailable: Redis did not answer in time; if it has added the member, a retry removes it.
        """
        place = (channel, member.connection)
        answer = self._writes.join(JoinKind(channel, may_return=True), place[1], member)
        self._local_members[place] = member
        self._leaves_to_retry.pop(place, None)
        try:
            listed: Member = await wait_for(answer, self._options.presence_timeout)
        except BaseException:
            # Redis may have added the member although the call failed.
            self._local_members.pop(place, None)
            self._leaves_to_retry[place] = 0.0
            raise
        if place in self._local_members:
            self._local_members[place] = listed
        return listed

    async def leave(self, channel: str, connection: str, *, grace: float) -> None:
        """Remove the member, now, after *grace*, or after a later renewal of the lease; never raises."""
        place = (channel, connection)
        # Retried only for a member whose join was sent: failed leaves of other connections must not pile up.
        if self._local_members.pop(place, None) is not None:
            self._leaves_to_retry[place] = grace
        try:
            await wait_for(self._start_leaving(place, grace), self._options.presence_timeout)
        except GatewayError:
            return
        self._leaves_to_retry.pop(place, None)

    async def presence(self, channel: str) -> Presence:
        """Return the members of *channel*, in the order of their joins."""
        members = await self._members.get(channel)
        return await members.decoded()

    async def count(self, channel: str) -> PresenceCount:
        """Return the number of members of *channel*; the cost of the call does not depend on that number."""
        return await self._counts.get(channel)

    async def rejoin(self) -> None:
        """Add every local member again, for a new incarnation.

        Subscribers get a `Join` for those that Redis did not have: they have received a `Leave`, or a list of
        the members without them.
        """
        incarnation = self.incarnation
        self._joins_to_retry.clear()
        for number, place in enumerate(list(self._local_members), start=1):
            if incarnation != self.incarnation:
                return  # another incarnation has started, and adds all members itself
            if place in self._local_members:
                self._rejoin(place)
            if number % MEMBERS_PER_TURN == 0:
                await asyncio.sleep(0)

    def on_lease_renewed(self) -> None:
        """Retry the joins and leaves that failed, and end the graces of members of nodes that have ended."""
        for place, grace in list(self._leaves_to_retry.items()):
            self._retry_leave(place, grace)
        failed, self._joins_to_retry = self._joins_to_retry, {}
        for place in failed:
            if place in self._local_members:
                self._rejoin(place)
        self._end_graces_of_others()

    async def close(self) -> None:
        """Send what waits. Graces that have not ended are ended by other nodes, or by the next one."""
        self._graces.cancel()
        await self._writes.close(MEMBER_WRITES_CLOSE_TIMEOUT_SECONDS)

    @property
    def absent(self) -> int:
        """How many members whose connection ended here are still listed, or have passed to another."""
        return len(self._graces)

    # ------------------------------------------------------------ inside

    def _members_command(self, channel: str) -> Command:
        # Only the values are read: each contains the id of its connection.
        return ("HVALS", self._keys.members(channel))

    def _count_command(self, channel: str) -> Command:
        return COUNT_MEMBERS([self._keys.members(channel), self._keys.user_counts(channel)])

    def _start_leaving(self, place: Place, grace: float) -> asyncio.Future[None]:
        if not grace:
            return self._writes.leave(*place)
        token = new_uid()

        def on_grace_begun(answer: asyncio.Future[None]) -> None:
            # If it is unknown whether the grace began, the leave is retried.
            if answer.cancelled() or answer.exception() is not None:
                return
            if not self._graces.start((place, token), grace):
                self.graces_refused += 1
                self._on_graces_ended([(place, token)])

        answer = self._writes.leave(*place, grace=grace, token=token)
        answer.add_done_callback(on_grace_begun)
        return answer

    def _on_graces_ended(self, ended: list[tuple[Place, str]]) -> None:
        for place, token in ended:
            # If that fails, a later renewal of any node's lease ends the grace.
            with contextlib.suppress(GatewayError):
                self._writes.leave(*place, token=token)

    def _end_graces_of_others(self) -> None:
        keys = self._keys

        def on_done(answer: AnswerFuture) -> None:
            if answer.cancelled() or answer.exception() is not None:
                return
            _, ended = answer.result()
            if ended == GRACES_PER_CALL:
                self._end_graces_of_others()

        command = END_GRACES(
            [keys.state, keys.graces, keys.beats],
            self.incarnation,
            keys.inbox_prefix,
            self._options.inbox_limit,
            keys.members_prefix,
            keys.route_prefix,
            milliseconds(GRACE_SLACK_SECONDS),
            milliseconds(GRACE_MAX_SECONDS),
            GRACES_PER_CALL,
        )
        with contextlib.suppress(GatewayError):
            self._pipeline.call(command).add_done_callback(on_done)

    def _rejoin(self, place: Place) -> None:
        def on_done(answer: asyncio.Future[Member]) -> None:
            if answer.cancelled() or answer.exception() is not None:
                self._joins_to_retry[place] = None

        channel, connection = place
        kind = JoinKind(channel, may_return=False)
        try:
            answer = self._writes.join(kind, connection, self._local_members[place])
            answer.add_done_callback(on_done)
        except GatewayError:
            self._joins_to_retry[place] = None

    def _retry_leave(self, place: Place, grace: float) -> None:
        def on_done(answer: asyncio.Future[None]) -> None:
            if not answer.cancelled() and answer.exception() is None and place not in self._local_members:
                self._leaves_to_retry.pop(place, None)

        with contextlib.suppress(GatewayError):
            self._start_leaving(place, grace).add_done_callback(on_done)

    def __repr__(self) -> str:
        local, leaves = len(self._local_members), len(self._leaves_to_retry)
        return f"<PresenceStore {local} local members {leaves} leaves to retry>"


class _StoredMembers:
    """The members of a channel as Redis returned them, decoded by the first caller for all callers."""

    __slots__ = ("_decoding", "_presence", "_slicer", "_values")

    def __init__(self, slicer: Slicer, _: str, values: Sequence[bytes]) -> None:
        self._slicer = slicer
        self._values = values
        self._decoding = asyncio.Lock()
        self._presence: Presence | None = None

    async def decoded(self) -> Presence:
        async with self._decoding:
            if self._presence is None:
                self._presence = await decode_members(self._values, self._slicer)
            return self._presence


async def decode_members(values: Sequence[bytes], slicer: Slicer) -> Presence:
    """Return the members stored in *values*, in the order of their joins; in slices."""
    numbered: list[tuple[int, Member]] = []
    for start in range(0, len(values), MEMBERS_PER_TURN):
        part = values[start : start + MEMBERS_PER_TURN]
        await slicer.turn(len(part) * DECODE_MICROSECONDS)
        numbered += [_number_and_member(value) for value in part]
    numbered.sort(key=itemgetter(0))
    return Presence(tuple(member for _, member in numbered))


def _parse_count(_: str, answer: Sequence[int]) -> PresenceCount:
    return PresenceCount(*answer)


def _number_and_member(value: bytes) -> tuple[int, Member]:
    """Return the join number and the member in a value of the hash of members."""
    order, _, member = value.split(b" ", 2)
    return int(order), codec.unpack_member(member)
