"""Reading histories; those who wait for the same part of one share the answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from gateway.broker.base import Delivery, Slice
from gateway.broker.log import new_uid
from gateway.broker.redis import envelope
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.line import Line
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.publisher import milliseconds
from gateway.broker.redis.script import READ
from protocol.position import MessageId

_REASONS = {0: "", 1: "trimmed", 2: "reset"}

Wanted = tuple[str, MessageId | None, int | None, bool]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a history as it was stored, excluded connections included."""

    deliveries: list[Delivery]
    position: MessageId
    fault: str
    """Why it does not begin right after the position asked for; empty where it does."""


class History:
    """Histories of one shard."""

    def __init__(self, line: Line, keys: Keys, options: RedisOptions) -> None:
        """Ask by *line*, whose patience is the deadline of a resume."""
        self._line = line
        self._keys = keys
        self._options = options
        self._asked: dict[Wanted, asyncio.Future[Any]] = {}
        self.reads = self.shared = 0

    async def read(self, channel: str, since: MessageId | None, limit: int | None, *, reverse: bool) -> Slice:
        """Return a slice as `broker.base.Streams.read` promises it."""
        page = await self.page(channel, since, limit, reverse=reverse)
        if page.fault:
            return Slice((), page.position, recovered=False)
        return Slice([delivery.message for delivery in page.deliveries], page.position, recovered=True)

    async def page(
        self, channel: str, since: MessageId | None, limit: int | None, *, reverse: bool = False
    ) -> Page:
        """Return a part of the history of *channel*."""
        wanted = (channel, since, limit, reverse)
        answer = self._asked.get(wanted)
        if answer is None or self._line.departed(answer):
            answer = self._asked[wanted] = self._ask(wanted)
            answer.add_done_callback(lambda done: self._forget(wanted, done))
            self.reads += 1
        else:
            self.shared += 1
        # Shielded: who gives up must not take the answer from the others.
        offset, uid, fault, flat = await asyncio.shield(answer)
        deliveries = [envelope.unpack(channel, id, body) for id, body in envelope.identities(flat)]
        return Page(deliveries, MessageId(offset, uid.decode()), _REASONS[fault])

    def _ask(self, wanted: Wanted) -> asyncio.Future[Any]:
        channel, since, limit, reverse = wanted
        keys = self._keys
        return self._line.call(
            READ(
                [keys.state, keys.meta(channel), keys.log(channel)],
                new_uid(),
                milliseconds(self._options.meta_ttl),
                "" if since is None else since.offset,
                "" if since is None else since.uid,
                "" if limit is None else max(0, limit),
                int(reverse),
            )
        )

    def _forget(self, wanted: Wanted, answer: asyncio.Future[Any]) -> None:
        if self._asked.get(wanted) is answer:
            del self._asked[wanted]

    def __repr__(self) -> str:
        return f"<History {self.reads} reads {self.shared} shared>"
