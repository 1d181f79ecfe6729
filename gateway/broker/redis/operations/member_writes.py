"""Joins and leaves on their way to Redis: those of one channel that come together share one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from gateway.broker.redis import codec
from gateway.broker.redis.connection.batch_timer import BatchTimer
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pipeline import AnswerFuture, Pipeline
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import JOIN, LEAVE, Command, milliseconds
from gateway.errors import GatewayError
from protocol.messages import Member

T = TypeVar("T")

MEMBERS_PER_CALL = 100
"""Members that one call adds or removes at most: Redis serves nobody else meanwhile, for about 1 ms."""


class JoinKind(NamedTuple):
    """What the joins of one call have in common."""

    channel: str
    may_return: bool
    """Whether a member whose connection has ended may pass to the new connection."""


class _Join(NamedTuple):
    answer: asyncio.Future[Member]
    connection: str
    member: Member


class _Leave(NamedTuple):
    answer: asyncio.Future[None]
    connection: str
    grace: float
    token: str


class MemberWrites:
    """Sends the joins and leaves of one shard: one call for those of a channel that come together.

    The leaves of a batch are sent before its joins: a user who returns has to find the member that left.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        health: ShardHealth,
        keys: Keys,
        options: RedisOptions,
        *,
        incarnation: Callable[[], str],
    ) -> None:
        """Send over *pipeline*, at once while *health* says that calls may fail."""
        self._pipeline = pipeline
        self._health = health
        self._keys = keys
        self._options = options
        self._incarnation = incarnation
        self._joins: dict[JoinKind, list[_Join]] = {}
        self._joining: set[tuple[str, str]] = set()
        """Channels and connections of the joins that wait: a leave of one of these must not overtake it."""
        self._leaves: dict[str, list[_Leave]] = {}
        self._waiting = 0
        """Joins and leaves that wait."""
        self._timer = BatchTimer(self._send_all)
        self._unanswered: set[AnswerFuture] = set()

    def join(self, kind: JoinKind, connection: str, member: Member) -> asyncio.Future[Member]:
        """Return a future of *member* as it is listed, once it is; it belongs to *connection*.

        Raises:
            BrokerUnavailable: at once, if the shard is unavailable.
        """
        answer: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        self._require_available()
        self._joins.setdefault(kind, []).append(_Join(answer, connection, member))
        self._joining.add((kind.channel, connection))
        self._request()
        return answer

    def leave(
        self, channel: str, connection: str, *, grace: float = 0.0, token: str = ""
    ) -> asyncio.Future[None]:
        """Return a future that is done when the member of *connection* has left, or its *grace* has begun.

        With a *token* and without a grace, the member leaves only if its grace began with this token.

        Raises:
            BrokerUnavailable: at once, if the shard is unavailable.
        """
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._require_available()
        if (channel, connection) in self._joining:
            self._timer.flush()
        self._leaves.setdefault(channel, []).append(_Leave(answer, connection, grace, token))
        self._request()
        return answer

    async def close(self, timeout_seconds: float) -> None:
        """Send what waits, and wait for the answers."""
        self._timer.flush()
        if self._unanswered:
            await asyncio.wait(self._unanswered, timeout=timeout_seconds)

    # ------------------------------------------------------------ inside

    def _require_available(self) -> None:
        """Raise the error that a call would raise now; while the breaker is half open, be the probe."""
        if not self._health.available:
            self._timer.flush()
            self._health.require_available()

    def _request(self) -> None:
        self._waiting += 1
        if self._waiting < MEMBERS_PER_CALL:
            self._timer.request()
        else:
            self._timer.flush()

    def _send_all(self) -> None:
        self._waiting = 0
        leaves, self._leaves = self._leaves, {}
        joins, self._joins = self._joins, {}
        self._joining.clear()
        for channel, leaving in leaves.items():
            for part in _parts(leaving, MEMBERS_PER_CALL):
                self._send(self._leave_command(channel, part), [(each.answer, None) for each in part])
        for kind, joining in joins.items():
            for some in _parts(joining, MEMBERS_PER_CALL):
                self._send(self._join_command(kind, some), [(each.answer, each.member) for each in some])

    def _send(self, command: Command, waiting: Sequence[tuple[asyncio.Future[Any], Member | None]]) -> None:
        def on_answer(answer: AnswerFuture) -> None:
            self._unanswered.discard(answer)
            error = asyncio.CancelledError() if answer.cancelled() else answer.exception()
            if error is None:
                _, *listed = answer.result()
                _resolve(waiting, listed)
            else:
                _fail(waiting, error)

        try:
            answer = self._pipeline.call(command)
        except GatewayError as error:
            _fail(waiting, error)
            return
        self._unanswered.add(answer)
        answer.add_done_callback(on_answer)

    def _join_command(self, kind: JoinKind, joins: Iterable[_Join]) -> Command:
        keys, incarnation, channel = self._keys, self._incarnation(), kind.channel
        members = [(each.connection, codec.pack_member(each.member)) for each in joins]
        return JOIN(
            [
                keys.state,
                keys.beats,
                keys.members(channel),
                keys.user_counts(channel),
                keys.absences(channel),
                keys.route(channel),
                keys.nodes,
                keys.node_members(incarnation),
                keys.graces,
            ],
            keys.inbox_prefix,
            self._options.inbox_limit,
            keys.node_members_prefix,
            incarnation,
            channel,
            int(kind.may_return),
            *(argument for pair in members for argument in pair),
        )

    def _leave_command(self, channel: str, leaves: Iterable[_Leave]) -> Command:
        keys = self._keys
        arguments = [
            (each.connection, milliseconds(each.grace) if each.grace else 0, each.token) for each in leaves
        ]
        return LEAVE(
            [
                keys.state,
                keys.members(channel),
                keys.user_counts(channel),
                keys.absences(channel),
                keys.route(channel),
                keys.beats,
                keys.graces,
            ],
            keys.inbox_prefix,
            self._options.inbox_limit,
            keys.node_members_prefix,
            channel,
            self._incarnation(),
            *(argument for triple in arguments for argument in triple),
        )

    def __repr__(self) -> str:
        return f"<MemberWrites {len(self._joining)} joins wait, {len(self._unanswered)} calls unanswered>"


def _resolve(waiting: Sequence[tuple[asyncio.Future[Any], Member | None]], listed: Sequence[bytes]) -> None:
    for number, (answer, member) in enumerate(waiting):
        if answer.done():
            continue
        connection = "" if member is None else listed[number].decode()
        if member is None or member.connection == connection:
            answer.set_result(member)
        else:
            answer.set_result(replace(member, connection=connection))


def _fail(waiting: Sequence[tuple[asyncio.Future[Any], Member | None]], error: BaseException) -> None:
    for answer, _ in waiting:
        if not answer.done():
            answer.set_exception(error)
            answer.exception()  # retrieved here, in case that no caller awaits it


def _parts(items: Sequence[T], size: int) -> Iterable[list[T]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
