"""What a user's connections were told to do: as it comes, and later what a node was not there to hear."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from gateway.broker.base import LocalNode, UserCommand
from gateway.broker.redis import codec
from gateway.broker.redis.connection.pipeline import Pipeline
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.scripts.registry import SAID
from gateway.clock import Clock
from gateway.errors import GatewayError
from gateway.tasks import Tasks

KEPT = 10_000
"""Instructions that a shard keeps, about: 200 bytes each."""

REMEMBERED = 3_600.0
"""Seconds for which the last of them, and those before, are kept: who is away for longer misses them."""

OVERLAP = 60.0
"""Seconds before a renewal whose instructions may be unread still, or told by another primary's clock."""

PAGE = 500
"""Instructions that one call asks for."""


class UserCommandLog:
    """One shard's instructions, each handed on once."""

    def __init__(
        self,
        line: Pipeline,
        keys: Keys,
        node: LocalNode,
        tasks: Tasks,
        wall: Clock,
        *,
        deliver: Callable[[UserCommand], None],
    ) -> None:
        """Hand on to *deliver*; *wall* is the clock that says since when connections of *node* are there."""
        self._line = line
        self._keys = keys
        self._node = node
        self._tasks = tasks
        self._wall = wall
        self._deliver = deliver
        self._heard: OrderedDict[bytes, None] = OrderedDict()
        """The ids of those that were handed on."""
        self._sure: int | None = None
        """When everything had been heard, in Unix ms by Redis' clock."""
        self._missed = self._caught_up = 0
        """How often something may have been missed, and how many of these times have been made up for."""

    def hear(self, head: list[bytes], body: bytes) -> None:
        """Take what stands in the inbox."""
        if self._is_news(head[-1]):
            self._deliver(codec.unpack_user_command(body))

    def missed(self) -> None:
        """Read what was kept: routes were missing, or the inbox was; they have been asked for by now."""
        self._missed += 1
        self._tasks.spawn(self._catch_up())

    def settle(self, now: int) -> None:
        """Hear that the lease was held, and the inbox read, at *now*, in Unix ms by Redis' clock."""
        if self._caught_up == self._missed:
            self._sure = now
        else:
            self._tasks.spawn(self._catch_up())

    # ------------------------------------------------------------ inside

    async def _catch_up(self) -> None:
        number = self._missed
        try:
            now, entries = await self._read()
        except GatewayError:
            return  # `settle` does it again
        # A connection that came while Redis answered counts as older: better one too many is closed.
        for instruction in self._late(entries, self._wall() - now / 1000):
            self._deliver(instruction)
        if number == self._missed:
            self._caught_up, self._sure = number, now

    async def _read(self) -> tuple[int, list[tuple[bytes, UserCommand]]]:
        """Return what may have been missed, and Redis' time at the end of that."""
        # Whoever is connected without any such time came before this node first reached Redis.
        start = b"-" if self._sure is None else b"%d" % (self._sure - int(OVERLAP * 1000))
        entries: list[tuple[bytes, UserCommand]] = []
        while True:
            now, page = await self._line.call(SAID([self._keys.user_commands], start, PAGE))
            entries += [(id, codec.unpack_user_command(fields[1])) for id, fields in page]
            if len(page) < PAGE:
                return now, entries
            start = b"(" + page[-1][0]

    def _late(self, entries: list[tuple[bytes, UserCommand]], ahead: float) -> list[UserCommand]:
        """Return what was not heard, in order, with its time by our clock, which is *ahead* of Redis'."""
        late: list[UserCommand] = []
        overtaken: set[tuple[str, str]] = set()
        for id, instruction in reversed(entries):
            about = (instruction.user, instruction.channel)
            if not self._is_news(id):
                overtaken.add(about)
            elif (about not in overtaken or instruction.action == "disconnect") and self._is_here(about[0]):
                # The id tells a millisecond; it ends before the next one.
                before = (int(id.partition(b"-")[0]) + 1) / 1000 + ahead
                late.append(replace(instruction, issued_before=before))
        return late[::-1]

    def _is_here(self, user: str) -> bool:
        return bool(self._node.connections(user))

    def _is_news(self, id: bytes) -> bool:
        """Whether *id* is met for the first time; from now on it is not."""
        if id in self._heard:
            return False
        self._heard[id] = None
        if len(self._heard) > KEPT * 2:
            self._heard.popitem(last=False)
        return True

    def __repr__(self) -> str:
        return f"<Said {len(self._heard)} heard, {self._missed - self._caught_up} times not made up for>"
