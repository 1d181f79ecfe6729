"""Single-flight reads: callers that read the same key at the same time share one call to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from gateway.broker.redis.connection.error_table import TIMED_OUT
from gateway.broker.redis.connection.pipeline import AnswerFuture, Pipeline
from gateway.broker.redis.scripts.registry import Command

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """One kind of read: one call for all callers that wait for the same key; the answer is parsed once.

    No caller gets an answer that is older than its own request: if the call for a key was already sent, a new
    caller waits for the next call.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        command: Callable[[K], Command],
        parse: Callable[[K, Any], T],
        timeout: float,
        weight: Callable[[K], int] = lambda _: 0,
    ) -> None:
        """Send `command(key)` over *pipeline*, return `parse(key, answer)`; *timeout* in seconds.

        *weight* returns how many messages or members the call for a key may read.
        """
        self._pipeline = pipeline
        self._command = command
        self._parse = parse
        self._timeout = timeout
        self._weight = weight
        self._pending: dict[K, _PendingRead[T]] = {}
        self.reads = self.shared = 0

    async def get(self, key: K) -> T:
        """Return the parsed answer for *key*; raises `BrokerUnavailable` after the timeout."""
        read = self._pending.get(key)
        if read is None or self._pipeline.is_sent(read.answer):
            read = self._pending[key] = self._send(key)
            self.reads += 1
        else:
            self.shared += 1
        read.waiting += 1
        try:
            # A caller that times out must not cancel the read: callers that joined later have more time.
            done, _ = await asyncio.wait((read.parsed,), timeout=self._timeout)
        finally:
            read.waiting -= 1
            if not read.waiting:
                read.answer.cancel()  # a call that is not sent yet need not be sent
        if not done:
            raise TIMED_OUT.to_exception()
        return read.parsed.result()

    def _send(self, key: K) -> _PendingRead[T]:
        read = _PendingRead[T](self._pipeline.call(self._command(key), weight=self._weight(key)))

        def on_answer(answer: AnswerFuture) -> None:
            if self._pending.get(key) is read:
                del self._pending[key]
            if answer.cancelled():
                return
            try:
                read.parsed.set_result(self._parse(key, answer.result()))
            except Exception as error:  # noqa: BLE001 (the callers that wait get it)
                read.parsed.set_exception(error)
                read.parsed.exception()  # retrieved here, in case that no caller waits any more

        read.answer.add_done_callback(on_answer)
        return read

    def __repr__(self) -> str:
        return f"<SingleFlight {self.reads} reads {self.shared} shared>"


class _PendingRead(Generic[T]):
    """A call, its parsed answer, and how many callers wait for it."""

    __slots__ = ("answer", "parsed", "waiting")

    def __init__(self, answer: AnswerFuture) -> None:
        self.answer = answer
        self.parsed: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.waiting = 0
