"""Reading histories; those who wait for the same part of one share the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.broker.base import Delivery, HistorySlice
from gateway.broker.redis import codec
from gateway.broker.redis.connection.pipeline import Pipeline
from gateway.broker.redis.connection.single_flight import SingleFlight
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import READ_HISTORY, Command, milliseconds
from gateway.broker.uid import new_uid
from protocol.position import MessageId

_REASONS = {0: "", 1: "trimmed", 2: "reset"}

Wanted = tuple[str, MessageId | None, int | None, int | None, bool]


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A part of a history as it was stored, excluded connections included."""

    deliveries: Sequence[Delivery]
    position: MessageId
    gap_reason: str
    """Why it does not begin right after the position asked for: `trimmed` or `reset`; empty where it does."""
    floor: int
    """As a `HistorySlice` has it."""


class HistoryReader:
    """Histories of one shard."""

    def __init__(self, line: Pipeline, keys: Keys, options: RedisOptions) -> None:
        """Ask by *line*."""
        self._keys = keys
        self._meta_ttl = milliseconds(options.meta_ttl)
        self._pages = SingleFlight(line, command=self._command, parse=_page, timeout=options.resume_timeout)

    @property
    def reads(self) -> int:
        """How often Redis was asked."""
        return self._pages.reads

    @property
    def shared(self) -> int:
        """How often it was not, because somebody waited for the same."""
        return self._pages.shared

    async def read(
        self, channel: str, since: MessageId | None, limit: int | None, size: int | None, *, reverse: bool
    ) -> HistorySlice:
        """Return a slice as `broker.base.Streams.read` promises it."""
        page = await self.page(channel, since, limit, size, reverse=reverse)
        if page.gap_reason:
            return HistorySlice((), page.position, recovered=False, floor=page.floor)
        messages = [delivery.message for delivery in page.deliveries]
        return HistorySlice(messages, page.position, recovered=True, floor=page.floor)

    async def page(
        self,
        channel: str,
        since: MessageId | None,
        limit: int | None,
        size: int | None = None,
        *,
        reverse: bool = False,
    ) -> StoredPage:
        """Return a part of the history of *channel*, or `BrokerUnavailable` in the time of a resume."""
        return await self._pages.get((channel, since, limit, size, reverse))

    def _command(self, wanted: Wanted) -> Command:
        channel, since, limit, size, reverse = wanted
        keys = self._keys
        return READ_HISTORY(
            [keys.state, keys.meta(channel), keys.log(channel)],
            new_uid(),
            self._meta_ttl,
            "" if since is None else since.offset,
            "" if since is None else since.uid,
            "" if limit is None else max(0, limit),
            "" if size is None else size,
            int(reverse),
        )

    def __repr__(self) -> str:
        return f"<History {self.reads} reads {self.shared} shared>"


def _page(wanted: Wanted, told: Sequence[Any]) -> StoredPage:
    channel = wanted[0]
    offset, uid, fault, flat, floor = told
    deliveries = [codec.unpack(channel, id, body) for id, body in codec.identities(flat)]
    return StoredPage(deliveries, MessageId(offset, uid.decode()), _REASONS[fault], floor)
