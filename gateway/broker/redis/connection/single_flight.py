"""Reads that are shared by those who wait for the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from gateway.broker.redis.connection.error_table import TIMED_OUT
from gateway.broker.redis.connection.pipeline import Answer, Pipeline
from gateway.broker.redis.scripts.registry import Command

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """One kind of read: a call for all who wait for the same, and its answer made into a T once.

    Nobody hears what is older than the own question: who asks when a call has been sent waits for the next.
    """

    def __init__(
        self, line: Pipeline, *, command: Callable[[K], Command], make: Callable[[K, Any], T], seconds: float
    ) -> None:
        """Ask *command* of what is wanted by *line*; *make* a T of it and of what Redis answers."""
        self._line = line
        self._command = command
        self._make = make
        self._seconds = seconds
        self._asked: dict[K, _Asked[T]] = {}
        self.reads = self.shared = 0

    async def of(self, wanted: K) -> T:
        """Return the T of *wanted*; `BrokerUnavailable` where it does not come in time."""
        asked = self._asked.get(wanted)
        if asked is None or self._line.departed(asked.answer):
            asked = self._asked[wanted] = self._ask(wanted)
            self.reads += 1
        else:
            self.shared += 1
        asked.waiting += 1
        try:
            # Who gives up must not take the answer from the others: those who asked later have longer.
            told, _ = await asyncio.wait((asked.made,), timeout=self._seconds)
        finally:
            asked.waiting -= 1
            if not asked.waiting:
                asked.answer.cancel()  # what nobody waits for need not be sent
        if not told:
            raise TIMED_OUT.error()
        return asked.made.result()

    def _ask(self, wanted: K) -> _Asked[T]:
        asked = _Asked[T](self._line.call(self._command(wanted)))

        def tell(answer: Answer) -> None:
            if self._asked.get(wanted) is asked:
                del self._asked[wanted]
            if answer.cancelled():
                return
            try:
                asked.made.set_result(self._make(wanted, answer.result()))
            except Exception as error:  # noqa: BLE001 (whatever it is, those who wait are told)
                asked.made.set_exception(error)
                asked.made.exception()  # they may have gone

        asked.answer.add_done_callback(tell)
        return asked

    def __repr__(self) -> str:
        return f"<Shared {self.reads} reads {self.shared} shared>"


class _Asked(Generic[T]):
    """A call, and how many wait for what is made of its answer."""

    __slots__ = ("answer", "made", "waiting")

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.made: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.waiting = 0
