"""A pipeline to one shard: the calls of one turn of the event loop are sent together, in order."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, count
from typing import Any, NamedTuple

from redis import exceptions

from gateway.broker.redis.connection.connection import RedisConnection
from gateway.broker.redis.connection.error_table import (
    NOT_CARRIED_OUT,
    REPLACES_CONNECTION,
    TIMED_OUT,
    ErrorRule,
    rule_for,
)
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pending_calls import PendingCalls
from gateway.broker.redis.scripts.registry import (
    ADD_ROUTES,
    END_GRACES,
    JOIN,
    LEAVE,
    PUBLISH,
    RENEW_LEASE,
    Command,
)
from gateway.broker.redis.timeouts import (
    DEADLINE_TIMER_SLACK_SECONDS,
    PROBE_TIMEOUT_SECONDS,
    RESEND_JITTER_SECONDS,
)
from gateway.errors import BrokerUnavailable, GatewayError
from gateway.tasks import Tasks

BATCH_MAX_CALLS = 512
BATCH_MAX_BYTES = 4 * 1024 * 1024
"""The maximum size of a batch; a single call may be larger."""

BATCH_MAX_WEIGHT = 4_096
"""Messages and members that the reads of one batch ask for. A read of 1,000 takes 1 ms of Redis' time, and
Redis carries out all calls of a batch before it turns to other connections, such as those of publishes."""

AnswerFuture = asyncio.Future[Any]


class Call(NamedTuple):
    """One command that waits to be sent or answered."""

    answer: AnswerFuture
    packed: bytes
    counts_for: int
    """The number of the incarnation whose beat the answer contains; `NO_BEAT` if it contains no beat."""
    deadline: float
    """By the event loop's clock; `math.inf` without a deadline."""
    trailing: bool
    """Whether the trailing command of the pipeline is sent after the batch with this call."""
    weight: int
    """How many messages or members the call may read."""


NO_BEAT = -1


class _Failure(NamedTuple):
    """Why an attempt to send a batch failed."""

    not_carried_out: list[Call]
    """The calls that may be sent again: they were not sent, or Redis answered that it rejects them."""
    rule: ErrorRule
    error: BaseException


FAILS_CONNECTION = NOT_CARRIED_OUT | REPLACES_CONNECTION
"""What is done with calls after which the other calls of a connection may fail, too."""


async def wait_for(answer: AnswerFuture, timeout_seconds: float) -> Any:
    """Return the result of *answer*; after *timeout_seconds* set an exception, for all who await *answer*."""
    return await wait_until(answer, asyncio.get_running_loop().time() + timeout_seconds)


async def wait_until(answer: AnswerFuture, deadline: float) -> Any:
    """Return the result of *answer*; at *deadline* set an exception, for all who await *answer*.

    *deadline* is by the event loop's clock. A timer is used instead of `asyncio.timeout`, because
    `asyncio.timeout` needs a task, and the caller may run eagerly, outside of any task.

    Raises:
        BrokerUnavailable: the deadline has passed, or what the call itself raises.
    """

    def expire() -> None:
        if not answer.done():
            answer.set_exception(TIMED_OUT.to_exception())

    timer = asyncio.get_running_loop().call_at(deadline, expire)
    try:
        return await answer
    finally:
        timer.cancel()


async def result_or_none(shared: AnswerFuture, deadline: float) -> Any:
    """Return the result of *shared*, for which others may wait; None if it has none at *deadline*.

    *deadline* is by the event loop's clock.
    """
    if shared.done():
        return shared.result()
    loop = asyncio.get_running_loop()
    done_or_late: asyncio.Future[None] = loop.create_future()

    def wake(*_: object) -> None:
        if not done_or_late.done():
            done_or_late.set_result(None)

    shared.add_done_callback(wake)
    timer = loop.call_at(deadline, wake)
    try:
        await done_or_late
    finally:
        timer.cancel()
        shared.remove_done_callback(wake)
    return shared.result() if shared.done() else None


class Pipeline:
    """Sends calls over one connection, one batch at a time, in the order of the calls."""

    def __init__(
        self,
        connection: RedisConnection,
        health: ShardHealth,
        tasks: Tasks,
        pending: PendingCalls,
        *,
        timeout: float,
        ignores_health: bool = False,
        trailing_command: Command | None = None,
        after: Pipeline | None = None,
    ) -> None:
        """Create it; nothing is connected before the first call.

        Args:
            connection: Used only by this pipeline.
            health: Checked before each call, and notified of the outcome of each call.
            tasks: Owns the task that sends.
            pending: Counts the calls, together with those of other connections.
            timeout: Seconds for the answers to a batch.
            ignores_health: Call Redis even if the shard is unavailable according to *health*.
            trailing_command: Sent after each batch that has a call with *trailing*. A future of the answer to
                it, or of None, is appended to the answer of each such call.
            after: Each batch waits for the calls that were made on this pipeline before the batch is sent.
        """
        self._connection = connection
        self._health = health
        self._tasks = tasks
        self._pending = pending
        self._timeout = timeout
        self._ignores_health = ignores_health
        self._trailing_command = (
            None if trailing_command is None else connection.pack_command(trailing_command)
        )
        self._after = after
        self._waiting: deque[Call] = deque()
        self._waiting_bytes = 0
        self._batch: list[Call] = []
        """The calls that were sent and are not yet answered."""
        self._sent: frozenset[AnswerFuture] = frozenset()
        """The futures of the batch that was sent last."""
        self._latest_deadline = -math.inf
        """The latest deadline so far: deadlines ascend in the order of the calls, except for retries."""
        self._timer: asyncio.TimerHandle | None = None
        self._seen_connection_failures = 0
        self._running = False
        self._closed = False
        self._round_trips_at_probe = 0
        self.round_trips = self.calls = self.failures = 0
        self.resent = 0
        """Calls that were sent once more because they were certainly not carried out."""

    def call(
        self, command: Command, deadline: float = math.inf, *, trailing: bool = False, weight: int = 0
    ) -> AnswerFuture:
        """Return a future of the answer to *command*; the future need not be awaited.

        The future fails with `BrokerUnavailable` or `BrokerFull` for an error of Redis or of the connection,
        and at *deadline*, by the event loop's clock, even if the command was not sent yet. With
        *trailing* a future of the answer to the pipeline's trailing command is appended to the answer.
        *weight* is how many messages or members the call may read: a batch has few calls that read many.

        Raises:
            BrokerUnavailable: at once, if the shard is unavailable or too many calls are waiting.
        """
        if self._closed:
            raise _closed()
        if not self._ignores_health:
            self._health.require_available()
        # Packed here, so that a command that cannot be packed raises an exception only for its own caller.
        packed = self._connection.pack_command(command)
        size = len(packed)
        if not self._ignores_health:  # the lease must be renewed
            self._pending.require_room(size, own_calls=len(self._waiting), own_bytes=self._waiting_bytes)
        self._pending.add(1, size)
        loop = asyncio.get_running_loop()
        answer: AnswerFuture = loop.create_future()
        counts_for = self._health.incarnations if command[1] in _SCRIPTS_WITH_BEAT else NO_BEAT
        call = Call(answer, packed, counts_for, deadline, trailing, weight)
        self._waiting.append(call)
        self._waiting_bytes += size
        if deadline < self._latest_deadline:
            # The common timer is set for an earlier call with a later deadline: this call needs its own.
            timer = loop.call_at(deadline, self._fail, [call], self._timed_out)
            answer.add_done_callback(lambda _: timer.cancel())
        else:
            self._latest_deadline = deadline
            if self._timer is None and deadline < math.inf:
                self._timer = loop.call_at(deadline + DEADLINE_TIMER_SLACK_SECONDS, self._expire)
        if not self._running:
            self._running = True
            # The task starts in the next turn of the event loop, and sends all calls made until then.
            self._tasks.spawn(self._send_batches())
        return answer

    def probe_if_idle(self) -> None:
        """Test the connection, in the background, if nothing was sent since the last call of this method."""
        idle = self._round_trips_at_probe == self.round_trips
        self._round_trips_at_probe = self.round_trips
        if idle and self._connection.opened and not (self._running or self._closed):
            self._running = True
            self._tasks.spawn(self._probe_and_send())

    def is_sent(self, answer: AnswerFuture) -> bool:
        """Return whether the call for *answer* was sent: the answer may miss the latest writes."""
        return answer.done() or answer in self._sent

    async def wait_for_earlier_calls(self) -> None:
        """Return once all calls made so far are answered or have failed."""
        unanswered = [call.answer for call in chain(self._batch, self._waiting) if not call.answer.done()]
        if unanswered:
            await asyncio.wait(unanswered)

    async def close(self) -> None:
        """Fail the waiting calls and close the connection."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._fail([self._dequeue() for _ in range(len(self._waiting))], _closed)
        await self._connection.close()

    @property
    def replaced(self) -> int:
        """How often the connection was found closed or dead while it was idle, and was replaced."""
        return self._connection.replaced

    @property
    def waiting(self) -> int:
        """How many calls wait to be sent."""
        return len(self._waiting)

    # ------------------------------------------------------------ inside

    async def _probe_and_send(self) -> None:
        try:
            await self._connection.probe(min(self._timeout, PROBE_TIMEOUT_SECONDS))
        finally:
            self._running = False
        if self._waiting and not self._closed:
            self._running = True
            await self._send_batches()

    async def _send_batches(self) -> None:
        try:
            while batch := self._next_batch():
                self._batch = batch
                if self._after is not None:
                    await self._after.wait_for_earlier_calls()
                size = sum(len(call.packed) for call in batch)
                self._pending.add(len(batch), size)
                try:
                    await self._send(batch)
                finally:
                    self._pending.add(-len(batch), -size)
        finally:
            self._running = False
            self._fail(self._batch, _closed)

    def _expire(self) -> None:
        """Fail the calls whose deadline has passed, and set the timer for the next deadline.

        The connection stays open: answers that are late for these calls may be in time for later calls.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        late: list[Call] = []
        for call in self._batch:
            if call.deadline > now:
                break
            late.append(call)
        while self._waiting and self._waiting[0].deadline <= now:
            late.append(self._dequeue())
        self._fail(late, self._timed_out)
        pending = (call.deadline for call in chain(self._batch, self._waiting) if not call.answer.done())
        deadline = next(pending, math.inf)
        self._timer = (
            None
            if deadline == math.inf
            else loop.call_at(deadline + DEADLINE_TIMER_SLACK_SECONDS, self._expire)
        )

    def _dequeue(self) -> Call:
        call = self._waiting.popleft()
        self._waiting_bytes -= len(call.packed)
        self._pending.add(-1, -len(call.packed))
        return call

    def _next_batch(self) -> list[Call]:
        batch: list[Call] = []
        size = weight = 0
        while self._waiting and len(batch) < BATCH_MAX_CALLS:
            call = self._dequeue()
            if not call.answer.done():
                batch.append(call)
                size += len(call.packed)
                weight += call.weight
                if size >= BATCH_MAX_BYTES or weight >= BATCH_MAX_WEIGHT:
                    break
        return batch

    async def _send(self, batch: list[Call]) -> None:
        """Send *batch* and resolve its futures.

        Calls that were certainly not carried out are sent again, until their deadlines or until the shard
        counts as unavailable, which the renewal of the lease decides within moments. Then the calls that
        wait fail as well: they need not wait for their own timeouts.
        """
        self._sent = frozenset(call.answer for call in batch)
        self.calls += len(batch)
        for attempt in count():
            self._batch = batch
            failure = await self._attempt(batch)
            if failure is None:
                break
            if self._ignores_health or not self._health.available:
                waiting = [self._dequeue() for _ in range(len(self._waiting))]
                self._fail([*failure.not_carried_out, *waiting], partial(self._error_of, failure))
                break
            if attempt and failure.not_carried_out:
                await asyncio.sleep(random.random() * RESEND_JITTER_SECONDS)
            batch = [call for call in failure.not_carried_out if not call.answer.done()]
            if not batch:
                break
            self.resent += len(batch)
        self._batch = []

    async def _attempt(self, batch: list[Call]) -> _Failure | None:
        """Send *batch* once; return None if every call has its result, and no connection failed."""
        self.round_trips += 1
        if self._seen_connection_failures != self._health.connection_failures:
            self._seen_connection_failures = self._health.connection_failures
            await self._connection.close(gracefully=False)
        previous_beat = self._health.beat
        try:
            answers = await self._connection.execute_with_retry(
                [call.packed for call in batch], self._timeout
            )
        except (exceptions.RedisError, OSError) as error:
            rule = rule_for(error)
            self._health.record_failure(rule)
            return _Failure(batch, rule, error)
        trailing_answer: AnswerFuture | None = None
        if any(call.trailing for call in batch):
            trailing_answer = asyncio.get_running_loop().create_future()
        failure = self._resolve(batch, answers, previous_beat, trailing_answer)
        if trailing_answer is not None and self._trailing_command is not None:
            await self._execute_trailing(self._trailing_command, trailing_answer)
        if failure is not None and failure.rule.action in REPLACES_CONNECTION:
            await self._connection.close(gracefully=False)
        return failure

    def _resolve(
        self,
        batch: list[Call],
        answers: Sequence[Any],
        previous_beat: int,
        trailing_answer: AnswerFuture | None,
    ) -> _Failure | None:
        """Resolve the futures of *batch*, except for those of calls that can be sent again."""
        answered, failure, not_carried_out = 0, None, list[Call]()
        for call, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                rule = rule_for(answer)
                if rule.action in NOT_CARRIED_OUT:
                    not_carried_out.append(call)
                else:
                    self._reject(call.answer, rule, answer)
                if failure is None and rule.action in FAILS_CONNECTION:
                    failure = _Failure(not_carried_out, rule, answer)
                continue
            answered += 1
            if call.counts_for == self._health.incarnations and answer[0]:
                self._health.beat_received(answer[0], previous=previous_beat)
            if not call.answer.done():
                call.answer.set_result([*answer, trailing_answer] if call.trailing else answer)
        if answered:
            self._health.record_success(answered)
        if not_carried_out and failure is not None:
            self._health.record_failure(failure.rule)
        return failure

    async def _execute_trailing(self, command: bytes, trailing_answer: AnswerFuture) -> None:
        """Send *command*; *trailing_answer* gets None if it fails: the calls before it were answered."""
        answer = None
        try:
            # Over the same connection: WAIT on another one says nothing about the writes of this batch.
            (answer,) = await self._connection.execute_next([command], self._timeout)
            if isinstance(answer, Exception):
                self._health.record_failure(rule_for(answer))
        finally:
            trailing_answer.set_result(None if isinstance(answer, Exception) else answer)

    def _reject(self, answer: AnswerFuture, rule: ErrorRule, error: Exception) -> None:
        """Fail one call as *rule* says."""
        self.failures += 1
        raised = rule.to_exception(error, self._connection.server)
        self._health.record_failure(rule)
        if rule.reported_per_call:
            self._health.call_rejected(raised)
        if not answer.done():
            answer.set_exception(raised)
            answer.exception()  # retrieved here, in case that no caller awaits it

    def _fail(self, batch: list[Call], error: Callable[[], GatewayError]) -> None:
        for call in batch:
            if not call.answer.done():
                self.failures += 1
                call.answer.set_exception(error())
                call.answer.exception()

    def _error_of(self, failure: _Failure) -> GatewayError:
        return failure.rule.to_exception(failure.error, self._connection.server)

    def _timed_out(self) -> GatewayError:
        return TIMED_OUT.to_exception(server=self._connection.server)

    def __repr__(self) -> str:
        return f"<Pipeline {len(self._waiting)} waiting {self._health}>"


def _closed() -> BrokerUnavailable:
    return BrokerUnavailable("the broker is closed")


_SCRIPTS_WITH_BEAT = frozenset(
    script.digest for script in (PUBLISH, ADD_ROUTES, JOIN, LEAVE, END_GRACES, RENEW_LEASE)
)
"""Scripts whose answer begins with this node's beat, or with 0 if the call did not increment the beat."""
