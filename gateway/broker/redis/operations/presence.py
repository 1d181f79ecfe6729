"""The members of channels across all nodes; adds the members of this node again if Redis has lost them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from operator import itemgetter

from gateway.broker.base import Presence, PresenceCount
from gateway.broker.redis import codec
from gateway.broker.redis.connection.pipeline import AnswerFuture, Pipeline, wait_for
from gateway.broker.redis.connection.single_flight import SingleFlight
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import COUNT_MEMBERS, JOIN, LEAVE, Command
from gateway.errors import GatewayError
from gateway.tasks import Slicer
from protocol.messages import Member

MEMBERS_PER_TURN = 200
"""Members that are added again, or decoded, before other callbacks of the event loop may run."""

LIST_WEIGHT = 500
"""Members that a list may have: the number is not known before the answer."""

DECODE_MICROSECONDS = 2
"""For one member."""

Place = tuple[str, str]
"""A channel and a connection."""


class PresenceStore:
    """The members of one shard's channels."""

    def __init__(
        self, pipeline: Pipeline, reads: Pipeline, keys: Keys, options: RedisOptions, slicer: Slicer
    ) -> None:
        """Write over *pipeline*, read over *reads*; decode long lists in slices."""
        self.incarnation = ""
        """The id of this node's present incarnation, which owns the members of this node."""
        self._pipeline = pipeline
        self._keys = keys
        self._options = options
        self._local_members: dict[Place, Member] = {}
        """The members that are connected to this node."""
        self._leaves_to_retry: dict[Place, None] = {}
        """Members that may still be in Redis although they have left."""
        self._joins_to_retry: dict[Place, bool] = {}
        """Local members that may be missing in Redis, and whether subscribers get a `Join` for them."""
        timeout = options.presence_timeout
        self._members = SingleFlight(
            reads,
            command=self._members_command,
            parse=partial(_StoredMembers, slicer),
            timeout=timeout,
            weight=lambda _: LIST_WEIGHT,
        )
        self._counts = SingleFlight(reads, command=self._count_command, parse=_parse_count, timeout=timeout)

    async def join(self, channel: str, member: Member) -> None:
        """Add *member*; if the member is new, subscribers get a `Join`.

        Raises:
            BrokerUnavailable: Redis did not answer in time; if it has added the member, a retry removes it.
        """
        place = (channel, member.connection)
        answer = self._call_join(channel, member, announce=True)
        self._local_members[place] = member
        self._leaves_to_retry.pop(place, None)
        try:
            await wait_for(answer, self._options.presence_timeout)
        except BaseException:
            # Redis may have added the member although the call failed.
            self._local_members.pop(place, None)
            self._leaves_to_retry[place] = None
            raise

    async def leave(self, channel: str, connection: str) -> None:
        """Remove the member, now or after a later renewal of the lease; never raises a `GatewayError`."""
        place = (channel, connection)
        # Retried only for a member whose join was sent: failed leaves of other connections must not pile up.
        if self._local_members.pop(place, None) is not None:
            self._leaves_to_retry[place] = None
        try:
            await wait_for(self._call_leave(*place), self._options.presence_timeout)
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

    async def rejoin(self, *, announce: bool) -> None:
        """Add every local member again, for a new incarnation.

        *announce*: send a `Join` to subscribers, because they may have received a `Leave` for the members.
        """
        incarnation = self.incarnation
        self._joins_to_retry.clear()
        for number, place in enumerate(list(self._local_members), start=1):
            if incarnation != self.incarnation:
                return  # another incarnation has started, and adds all members itself
            if place in self._local_members:
                self._rejoin(place, announce=announce)
            if number % MEMBERS_PER_TURN == 0:
                await asyncio.sleep(0)

    def retry_failed(self) -> None:
        """Retry the joins and leaves that failed; called after each renewal of the lease."""
        for place in list(self._leaves_to_retry):
            self._retry_leave(place)
        failed, self._joins_to_retry = self._joins_to_retry, {}
        for place, announce in failed.items():
            if place in self._local_members:
                self._rejoin(place, announce=announce)

    # ------------------------------------------------------------ inside

    def _members_command(self, channel: str) -> Command:
        # Only the values are read: each contains the id of its connection.
        return ("HVALS", self._keys.members(channel))

    def _count_command(self, channel: str) -> Command:
        return COUNT_MEMBERS([self._keys.members(channel), self._keys.user_counts(channel)])

    def _call_join(self, channel: str, member: Member, *, announce: bool) -> AnswerFuture:
        keys, incarnation = self._keys, self.incarnation
        return self._pipeline.call(
            JOIN(
                [
                    keys.state,
                    keys.beats,
                    keys.members(channel),
                    keys.user_counts(channel),
                    keys.route(channel),
                    keys.nodes,
                    keys.node_members(incarnation),
                ],
                keys.inbox_prefix,
                self._options.inbox_limit,
                keys.node_members_prefix,
                incarnation,
                member.connection,
                channel,
                codec.pack_member(member),
                int(announce),
            )
        )

    def _call_leave(self, channel: str, connection: str) -> AnswerFuture:
        keys = self._keys
        return self._pipeline.call(
            LEAVE(
                [
                    keys.state,
                    keys.members(channel),
                    keys.user_counts(channel),
                    keys.route(channel),
                    keys.beats,
                ],
                keys.inbox_prefix,
                self._options.inbox_limit,
                keys.node_members_prefix,
                connection,
                channel,
                self.incarnation,
            )
        )

    def _rejoin(self, place: Place, *, announce: bool) -> None:
        def on_done(answer: AnswerFuture) -> None:
            if answer.cancelled() or answer.exception() is not None:
                self._joins_to_retry[place] = announce

        try:
            answer = self._call_join(place[0], self._local_members[place], announce=announce)
            answer.add_done_callback(on_done)
        except GatewayError:
            self._joins_to_retry[place] = announce

    def _retry_leave(self, place: Place) -> None:
        def on_done(answer: AnswerFuture) -> None:
            if not answer.cancelled() and answer.exception() is None and place not in self._local_members:
                self._leaves_to_retry.pop(place, None)

        with contextlib.suppress(GatewayError):
            self._call_leave(*place).add_done_callback(on_done)

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
