"""Calls to one shard, one after the other: all those of a turn of the loop travel together."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from itertools import chain, zip_longest
from typing import Any

from redis import exceptions

from gateway.broker.redis.connection.connection import RedisConnection
from gateway.broker.redis.connection.error_table import TIMED_OUT, Action, ErrorRule, rule_for
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.scripts.registry import JOIN, LEAVE, PUBLISH, RENEW, SUBSCRIBE, Command
from gateway.broker.redis.timeouts import COARSE
from gateway.errors import BrokerUnavailable, GatewayError
from gateway.tasks import Tasks

BATCH = 512
"""Calls that travel together at most."""

BATCH_BYTES = 4 * 1024 * 1024

WAITING = 50_000
"""Calls that may wait; one more is refused."""

WAITING_BYTES = 64 * 1024 * 1024

Answer = asyncio.Future[Any]

Call = tuple[Answer, bytes, int, float]
"""A packed command, the era in which its answer counts this node's beat (-1 where it does not), and until
when somebody waits for it, by the loop's clock."""


async def within(answer: Answer, seconds: float) -> Any:
    """Return what *answer* is within *seconds*; else it is `BrokerUnavailable` for everybody."""
    return await by(asyncio.get_running_loop().time() + seconds, answer)


async def by(until: float, answer: Answer) -> Any:
    """Return what *answer* is before *until*, by the loop's clock; else `BrokerUnavailable`, for everybody.

    By a timer instead of `asyncio.timeout`, which needs a task: the caller may be running eagerly.
    """

    def expire() -> None:
        if not answer.done():
            answer.set_exception(TIMED_OUT.error())

    timer = asyncio.get_running_loop().call_at(until, expire)
    try:
        return await answer
    finally:
        timer.cancel()


class Pipeline:
    """One connection, one pipeline in flight; Redis hears the calls in their order."""

    def __init__(
        self,
        wire: RedisConnection,
        contact: ShardHealth,
        tasks: Tasks,
        *,
        patience: float,
        exempt: bool = False,
        last: Command | None = None,
    ) -> None:
        """Give Redis *patience* seconds for each pipeline; *exempt* calls ask also where contact is lost.

        *last* is asked at the end of each pipeline, and its answer put behind the answer of each call.
        """
        self._wire = wire
        self._contact = contact
        self._tasks = tasks
        self._patience = patience
        self._exempt = exempt
        self._last = None if last is None else wire.pack(last)
        self._waiting: deque[Call] = deque()
        self._bytes = 0
        self._batch: list[Call] = []
        """Those that travel, and ..."""
        self._travelling: frozenset[Answer] = frozenset()
        self._known: list[Any] = []
        """... what Redis has answered to them, while the last command is still out."""
        self._latest = -math.inf
        """The latest of all deadlines so far: calls come in their order, but for those made again."""
        self._timer: asyncio.TimerHandle | None = None
        self._breaks = 0
        self._running = False
        self._closed = False
        self.trips = self.calls = self.failures = 0

    def call(self, command: Command, until: float = math.inf) -> Answer:
        """Return the future answer to *command*.

        Redis' refusals and a lost connection are raised as `BrokerUnavailable` or `BrokerFull`. Nobody need
        wait for it. `BrokerUnavailable` at once where asking is no use; and at *until*, by the loop's clock,
        sent or not.
        """
        if self._closed:
            raise _closed()
        if not self._exempt:
            self._contact.check()
        # Here, so that what cannot be packed is the error of its caller and of nobody else.
        packed = self._wire.pack(command)
        if len(self._waiting) >= WAITING or self._bytes + len(packed) > WAITING_BYTES:
            raise BrokerUnavailable(f"{len(self._waiting)} calls wait for Redis already")
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        call = (answer, packed, self._contact.era if command[1] in _COUNTED else -1, until)
        self._waiting.append(call)
        self._bytes += len(packed)
        if until < self._latest:
            # Those before it, which have longer, would hide it from the timer of all.
            timer = loop.call_at(until, self._fail, [call], self._timed_out)
            answer.add_done_callback(lambda _: timer.cancel())
        else:
            self._latest = until
            if self._timer is None and until < math.inf:
                self._timer = loop.call_at(until + COARSE, self._expire)
        if not self._running:
            self._running = True
            # It begins in the next turn of the loop, and takes along whatever is called for until then.
            self._tasks.spawn(self._work())
        return answer

    def departed(self, answer: Answer) -> bool:
        """Return whether the call for *answer* has been sent: what happens from now on it may not tell."""
        return answer.done() or answer in self._travelling

    async def close(self) -> None:
        """Fail what waits, and close the connection."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._fail([self._take() for _ in range(len(self._waiting))], _closed)
        await self._wire.close()

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes."""
        return {
            "calls": self.calls,
            "trips": self.trips,
            "failures": self.failures,
            "waiting": len(self._waiting),
        }

    # ------------------------------------------------------------ inside

    async def _work(self) -> None:
        try:
            while batch := self._next_batch():
                self._batch = batch
                await self._travel(batch)
                self._batch, self._known = [], []
        finally:
            self._running = False
            self._fail(self._batch, _closed)

    def _expire(self) -> None:
        """Fail the calls whose time is over, and look again when that of the next one is.

        Their connection stays: what is late for them is soon enough for those behind them.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        late: list[Call] = []
        for each, answer in zip_longest(self._batch, self._known):
            if each[3] > now:
                break
            if answer is None or isinstance(answer, Exception):
                late.append(each)
            elif not each[0].done():
                each[0].set_result([*answer, None])
        while self._waiting and self._waiting[0][3] <= now:
            late.append(self._take())
        self._fail(late, self._timed_out)
        left = (until for future, _, _, until in chain(self._batch, self._waiting) if not future.done())
        until = next(left, math.inf)
        self._timer = None if until == math.inf else loop.call_at(until + COARSE, self._expire)

    def _take(self) -> Call:
        each = self._waiting.popleft()
        self._bytes -= len(each[1])
        return each

    def _next_batch(self) -> list[Call]:
        batch: list[Call] = []
        size = 0
        while self._waiting and len(batch) < BATCH and size < BATCH_BYTES:
            each = self._take()
            if not each[0].done():
                batch.append(each)
                size += len(each[1])
        return batch

    async def _travel(self, batch: list[Call]) -> None:
        self.trips += 1
        self._travelling = frozenset(future for future, *_ in batch)
        self.calls += len(batch)
        if self._breaks != self._contact.breaks:
            self._breaks = self._contact.breaks
            await self._wire.close(gently=False)
        expected, told = self._contact.beat, None
        try:
            answers = await self._wire.ask([packed for _, packed, *_ in batch], self._patience)
            if self._last is not None:
                self._known = answers
                told = await self._ask_last(self._last)
        except (exceptions.RedisError, OSError) as error:
            self._lost(batch, rule_for(error), error)
            return
        answered, misled = 0, False
        for (future, _, era, _), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                misled |= self._refused(future, rule_for(answer), answer)
                continue
            answered += 1
            if era == self._contact.era and answer[0]:
                self._contact.counted(answer[0], expected)
            if not future.done():
                future.set_result(answer if self._last is None else [*answer, told])
        if answered:
            self._contact.answered(answered)
        if misled:
            await self._wire.close(gently=False)

    async def _ask_last(self, last: bytes) -> Any:
        """Return the answer; None where there is none: the calls before it were answered all the same."""
        try:
            (told,) = await self._wire.exchange([last], self._patience)
        except (exceptions.RedisError, OSError) as error:
            self._contact.failed(rule_for(error))
            return None
        return None if isinstance(told, Exception) else told

    def _lost(self, batch: list[Call], fault: ErrorRule, error: BaseException) -> None:
        """Fail everything, also what waits: it was not sent, and need not wait for another timeout."""
        self._contact.failed(fault, len(batch))
        waiting = [self._take() for _ in range(len(self._waiting))]
        self._fail([*batch, *waiting], lambda: fault.error(error, self._wire.server))

    def _refused(self, future: Answer, fault: ErrorRule, error: Exception) -> bool:
        """Fail one call; return whether the connection is no good, either."""
        self.failures += 1
        told = fault.error(error, self._wire.server)
        self._contact.failed(fault)
        if fault.tells_of_itself:
            self._contact.puzzled(told)
        if not future.done():
            future.set_exception(told)
            future.exception()  # it may have nobody else to tell
        return fault.then is Action.RECONNECT

    def _fail(self, batch: list[Call], error: Callable[[], GatewayError]) -> None:
        for future, *_ in batch:
            if not future.done():
                self.failures += 1
                future.set_exception(error())
                future.exception()

    def _timed_out(self) -> GatewayError:
        return TIMED_OUT.error(server=self._wire.server)

    def __repr__(self) -> str:
        return f"<Line {len(self._waiting)} waiting {self._contact}>"


def _closed() -> BrokerUnavailable:
    return BrokerUnavailable("the broker is closed")


_COUNTED = frozenset(script.digest for script in (PUBLISH, SUBSCRIBE, JOIN, LEAVE, RENEW))
"""Scripts whose answer begins with this node's beat; 0 where it was not counted up."""
