"""A pipeline to one shard: the calls of one turn of the event loop are sent together, in order."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from redis import exceptions

from gateway.broker.redis.connection.connection import RedisConnection
from gateway.broker.redis.connection.error_table import TIMED_OUT, ErrorAction, ErrorRule, rule_for
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.scripts.registry import ADD_ROUTE, JOIN, LEAVE, PUBLISH, RENEW_LEASE, Command
from gateway.broker.redis.timeouts import DEADLINE_TIMER_SLACK_SECONDS
from gateway.errors import BrokerUnavailable, GatewayError
from gateway.tasks import Tasks

BATCH_MAX_CALLS = 512
BATCH_MAX_BYTES = 4 * 1024 * 1024
"""The maximum size of a batch; a single call may be larger."""

WAITING_MAX_CALLS = 50_000
WAITING_MAX_BYTES = 64 * 1024 * 1024
"""The maximum of calls that wait to be sent; further calls are rejected."""

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


NO_BEAT = -1


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
            timeout: Seconds for the answers to a batch.
            ignores_health: Call Redis even if the shard is unavailable according to *health*.
            trailing_command: Sent after each batch that has a call with *trailing*. A future of the answer to
                it, or of None, is appended to the answer of each such call.
            after: Each batch waits for the calls that were made on this pipeline before the batch is sent.
        """
        self._connection = connection
        self._health = health
        self._tasks = tasks
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
        self.round_trips = self.calls = self.failures = 0

    def call(self, command: Command, deadline: float = math.inf, *, trailing: bool = False) -> AnswerFuture:
        """Return a future of the answer to *command*; the future need not be awaited.

        The future fails with `BrokerUnavailable` or `BrokerFull` for an error of Redis or of the connection,
        and at *deadline*, by the event loop's clock, even if the command was not sent yet. With
        *trailing* a future of the answer to the pipeline's trailing command is appended to the answer.

        Raises:
            BrokerUnavailable: at once, if the shard is unavailable or too many calls are waiting.
        """
        if self._closed:
            raise _closed()
        if not self._ignores_health:
            self._health.require_available()
        # Packed here, so that a command that cannot be packed raises an exception only for its own caller.
        packed = self._connection.pack_command(command)
        if len(self._waiting) >= WAITING_MAX_CALLS or self._waiting_bytes + len(packed) > WAITING_MAX_BYTES:
            raise BrokerUnavailable(f"{len(self._waiting)} calls wait for Redis already")
        loop = asyncio.get_running_loop()
        answer: AnswerFuture = loop.create_future()
        counts_for = self._health.incarnations if command[1] in _SCRIPTS_WITH_BEAT else NO_BEAT
        call = Call(answer, packed, counts_for, deadline, trailing)
        self._waiting.append(call)
        self._waiting_bytes += len(packed)
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
    def waiting(self) -> int:
        """How many calls wait to be sent."""
        return len(self._waiting)

    # ------------------------------------------------------------ inside

    async def _send_batches(self) -> None:
        try:
            while batch := self._next_batch():
                self._batch = batch
                if self._after is not None:
                    await self._after.wait_for_earlier_calls()
                await self._send(batch)
                self._batch = []
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
        return call

    def _next_batch(self) -> list[Call]:
        batch: list[Call] = []
        size = 0
        while self._waiting and len(batch) < BATCH_MAX_CALLS and size < BATCH_MAX_BYTES:
            call = self._dequeue()
            if not call.answer.done():
                batch.append(call)
                size += len(call.packed)
        return batch

    async def _send(self, batch: list[Call]) -> None:
        """Send *batch* and resolve its futures."""
        self.round_trips += 1
        self._sent = frozenset(call.answer for call in batch)
        self.calls += len(batch)
        if self._seen_connection_failures != self._health.connection_failures:
            self._seen_connection_failures = self._health.connection_failures
            await self._connection.close(gracefully=False)
        previous_beat = self._health.beat
        try:
            answers = await self._connection.execute_with_retry(
                [call.packed for call in batch], self._timeout
            )
        except (exceptions.RedisError, OSError) as error:
            self._fail_all(batch, rule_for(error), error)
            return
        trailing_answer: AnswerFuture | None = None
        if any(call.trailing for call in batch):
            trailing_answer = asyncio.get_running_loop().create_future()
        reconnect = self._resolve(batch, answers, previous_beat, trailing_answer)
        if trailing_answer is not None and self._trailing_command is not None:
            await self._execute_trailing(self._trailing_command, trailing_answer)
        if reconnect:
            await self._connection.close(gracefully=False)

    def _resolve(
        self,
        batch: list[Call],
        answers: Sequence[Any],
        previous_beat: int,
        trailing_answer: AnswerFuture | None,
    ) -> bool:
        """Resolve the futures of *batch*; return whether an error requires a new connection."""
        answered, reconnect = 0, False
        for call, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                reconnect |= self._reject(call.answer, rule_for(answer), answer)
                continue
            answered += 1
            if call.counts_for == self._health.incarnations and answer[0]:
                self._health.beat_received(answer[0], previous=previous_beat)
            if not call.answer.done():
                call.answer.set_result([*answer, trailing_answer] if call.trailing else answer)
        if answered:
            self._health.record_success(answered)
        return reconnect

    async def _execute_trailing(self, command: bytes, trailing_answer: AnswerFuture) -> None:
        """Send *command*; *trailing_answer* gets None if it fails: the calls before it were answered."""
        answer = None
        try:
            (answer,) = await self._connection.execute([command], self._timeout)
        except (exceptions.RedisError, OSError) as error:
            self._health.record_failure(rule_for(error))
        finally:
            trailing_answer.set_result(None if isinstance(answer, Exception) else answer)

    def _fail_all(self, batch: list[Call], rule: ErrorRule, error: BaseException) -> None:
        """Fail *batch* and the waiting calls, which need not wait for their own timeouts."""
        self._health.record_failure(rule, len(batch))
        waiting = [self._dequeue() for _ in range(len(self._waiting))]
        self._fail([*batch, *waiting], lambda: rule.to_exception(error, self._connection.server))

    def _reject(self, answer: AnswerFuture, rule: ErrorRule, error: Exception) -> bool:
        """Fail one call as *rule* says; return whether the connection has to be replaced."""
        self.failures += 1
        raised = rule.to_exception(error, self._connection.server)
        self._health.record_failure(rule)
        if rule.reported_per_call:
            self._health.call_rejected(raised)
        if not answer.done():
            answer.set_exception(raised)
            answer.exception()  # retrieved here, in case that no caller awaits it
        return rule.action is ErrorAction.RECONNECT

    def _fail(self, batch: list[Call], error: Callable[[], GatewayError]) -> None:
        for call in batch:
            if not call.answer.done():
                self.failures += 1
                call.answer.set_exception(error())
                call.answer.exception()

    def _timed_out(self) -> GatewayError:
        return TIMED_OUT.to_exception(server=self._connection.server)

    def __repr__(self) -> str:
        return f"<Pipeline {len(self._waiting)} waiting {self._health}>"


def _closed() -> BrokerUnavailable:
    return BrokerUnavailable("the broker is closed")


_SCRIPTS_WITH_BEAT = frozenset(script.digest for script in (PUBLISH, ADD_ROUTE, JOIN, LEAVE, RENEW_LEASE))
"""Scripts whose answer begins with this node's beat, or with 0 if the call did not increment the beat."""
