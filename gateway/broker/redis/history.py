"""Reading histories; those who wait for the same part of one share the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.broker.base import Delivery, Slice
from gateway.broker.log import new_uid
from gateway.broker.redis import envelope
from gateway.broker.redis.faults import TIMED_OUT
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.line import Answer, Line
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.script import READ, milliseconds
from protocol.position import MessageId

_REASONS = {0: "", 1: "trimmed", 2: "reset"}

Wanted = tuple[str, MessageId | None, int | None, int | None, bool]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a history as it was stored, excluded connections included."""

    deliveries: Sequence[Delivery]
    position: MessageId
    fault: str
    """Why it does not begin right after the position asked for; empty where it does."""
    floor: int
    """As a `Slice` has it."""


class History:
    """Histories of one shard."""

    def __init__(self, line: Line, keys: Keys, options: RedisOptions) -> None:
        """Ask by *line*."""
        self._line = line
        self._keys = keys
        self._options = options
        self._asked: dict[Wanted, tuple[Answer, asyncio.Future[Page]]] = {}
        self.reads = self.shared = 0

    async def read(
        self, channel: str, since: MessageId | None, limit: int | None, size: int | None, *, reverse: bool
    ) -> Slice:
        """Return a slice as `broker.base.Streams.read` promises it."""
        page = await self.page(channel, since, limit, size, reverse=reverse)
        if page.fault:
            return Slice((), page.position, recovered=False, floor=page.floor)
        messages = [delivery.message for delivery in page.deliveries]
        return Slice(messages, page.position, recovered=True, floor=page.floor)

    async def page(
        self,
        channel: str,
        since: MessageId | None,
        limit: int | None,
        size: int | None = None,
        *,
        reverse: bool = False,
    ) -> Page:
        """Return a part of the history of *channel*, or `BrokerUnavailable` in the time of a resume."""
        wanted = (channel, since, limit, size, reverse)
        asked = self._asked.get(wanted)
        if asked is None or self._line.departed(asked[0]):
            asked = self._asked[wanted] = self._start(wanted)
            self.reads += 1
        else:
            self.shared += 1
        # Who gives up must not take the answer from the others: those who asked later have longer.
        told, _ = await asyncio.wait((asked[1],), timeout=self._options.resume_deadline)
        if not told:
            raise TIMED_OUT.error()
        return asked[1].result()

    def _start(self, wanted: Wanted) -> tuple[Answer, asyncio.Future[Page]]:
        """Ask for *wanted*, and have the answer unpacked once, for everybody."""
        answer = self._ask(wanted)
        page: asyncio.Future[Page] = asyncio.get_running_loop().create_future()

        def unpack(done: Answer) -> None:
            asked = self._asked.get(wanted)
            if asked is not None and asked[0] is done:
                del self._asked[wanted]
            try:
                page.set_result(_page(wanted[0], done.result()))
            except Exception as error:  # noqa: BLE001 (whatever it is, those who wait are told)
                page.set_exception(error)
                page.exception()  # they may have gone

        answer.add_done_callback(unpack)
        return answer, page

    def _ask(self, wanted: Wanted) -> Answer:
        channel, since, limit, size, reverse = wanted
        keys = self._keys
        return self._line.call(
            READ(
                [keys.state, keys.meta(channel), keys.log(channel)],
                new_uid(),
                milliseconds(self._options.meta_ttl),
                "" if since is None else since.offset,
                "" if since is None else since.uid,
                "" if limit is None else max(0, limit),
                "" if size is None else size,
                int(reverse),
            )
        )

    def __repr__(self) -> str:
        return f"<History {self.reads} reads {self.shared} shared>"


def _page(channel: str, told: Sequence[Any]) -> Page:
    offset, uid, fault, flat, floor = told
    deliveries = [envelope.unpack(channel, id, body) for id, body in envelope.identities(flat)]
    return Page(deliveries, MessageId(offset, uid.decode()), _REASONS[fault], floor)
