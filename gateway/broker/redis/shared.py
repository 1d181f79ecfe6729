"""Reads that are shared by those who wait for the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from gateway.broker.redis.line import Answer, Line, within
from gateway.broker.redis.script import Command
from gateway.eager import Tasks
from gateway.errors import BrokerUnavailable

T = TypeVar("T")


class Shared(Generic[T]):
    """One kind of read: a call for all who wait for the same, and its answer made into a T once.

    Nobody hears what is older than the own question: who asks when a call has been sent waits for the next.
    """

    def __init__(
        self,
        line: Line,
        tasks: Tasks,
        *,
        command: Callable[[str], Command],
        make: Callable[[Any], Awaitable[T]],
        seconds: float,
    ) -> None:
        """Ask *command* of a name by *line*, for *seconds* at most; *make* a T of what Redis answers."""
        self._line = line
        self._tasks = tasks
        self._command = command
        self._make = make
        self._seconds = seconds
        self._asked: dict[str, tuple[Answer, asyncio.Future[T]]] = {}
        self.reads = self.shared = 0

    async def of(self, name: str) -> T:
        """Return the T of *name*."""
        asked = self._asked.get(name)
        if asked is None or self._line.departed(asked[0]):
            asked = self._asked[name] = self._start(name)
            self.reads += 1
        else:
            self.shared += 1
        # Shielded: who gives up must not take the answer from the others.
        return await asyncio.shield(asked[1])

    def _start(self, name: str) -> tuple[Answer, asyncio.Future[T]]:
        answer = self._line.call(self._command(name))
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._tasks.adopt(self._tell(name, answer, outcome))
        return answer, outcome

    async def _tell(self, name: str, answer: Answer, outcome: asyncio.Future[T]) -> None:
        try:
            outcome.set_result(await self._make(await within(answer, self._seconds)))
        except Exception as error:  # noqa: BLE001 (whatever it is, those who wait are told)
            outcome.set_exception(error)
            outcome.exception()  # they may have gone
        finally:
            if not outcome.done():
                outcome.set_exception(BrokerUnavailable("the broker is closed"))
                outcome.exception()
            asked = self._asked.get(name)
            if asked is not None and asked[0] is answer:
                del self._asked[name]

    def __repr__(self) -> str:
        return f"<Shared {self.reads} reads {self.shared} shared>"
