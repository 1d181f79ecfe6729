"""Reads channels' histories; concurrent reads of the same part share one call to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.broker.base import Delivery, HistorySlice
from gateway.broker.redis import codec
from gateway.broker.redis.connection.pipeline import Pipeline
from gateway.broker.redis.connection.single_flight import SingleFlight
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import READ_HISTORY, Command, milliseconds
from gateway.broker.uid import new_uid
from gateway.tasks import SHORT_MICROSECONDS, Slicer
from protocol.position import MessageId

ALL_MESSAGES = 1_000
"""The weight of a read without a limit."""

MESSAGES_PER_PART, DECODE_MICROSECONDS = 100, 4
"""Messages that are decoded at a time, and the time for each."""

_GAP_REASONS = {0: "", 1: "trimmed", 2: "reset"}
"""The text for each `gap` number that scripts/read_history.lua returns."""

PageRequest = tuple[str, MessageId | None, int | None, int | None, bool]
"""Channel, since, limit, size, reverse: the arguments of `MessageBroker.read`."""


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A part of a history as Redis stores it, including the connections that each message excludes."""

    deliveries: Sequence[Delivery]
    position: MessageId
    gap_reason: str
    """`trimmed` or `reset` if the page does not begin right after the requested position; otherwise empty."""
    floor: int
    """As in `HistorySlice`."""


class HistoryReader:
    """Reads the histories of one shard."""

    def __init__(self, pipeline: Pipeline, keys: Keys, options: RedisOptions, slicer: Slicer) -> None:
        """Send the reads over *pipeline*; decode long answers in slices."""
        self._keys = keys
        self._meta_ttl = milliseconds(options.meta_ttl)
        self._pages = SingleFlight(
            pipeline,
            command=self._command,
            parse=partial(_DecodedOnce, slicer),
            timeout=options.history_timeout,
            weight=lambda request: ALL_MESSAGES if request[2] is None else request[2],
        )

    @property
    def reads(self) -> int:
        """How many reads were sent to Redis."""
        return self._pages.reads

    @property
    def shared(self) -> int:
        """How many reads were not sent, because another caller was waiting for the same part."""
        return self._pages.shared

    async def read(
        self, channel: str, since: MessageId | None, limit: int | None, size: int | None, *, reverse: bool
    ) -> HistorySlice:
        """Return a slice as `MessageBroker.read` specifies it."""
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
        """Return a part of the history of *channel*, with the arguments of `MessageBroker.read`.

        Raises:
            BrokerUnavailable: Redis did not answer within `RedisOptions.history_timeout`.
        """
        stored = await self._pages.get((channel, since, limit, size, reverse))
        return await stored.page()

    def _command(self, request: PageRequest) -> Command:
        channel, since, limit, size, reverse = request
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
        return f"<HistoryReader {self.reads} reads {self.shared} shared>"


class _DecodedOnce:
    """A page as Redis returned it, decoded by the first caller for all callers."""

    __slots__ = ("_answer", "_decoding", "_page", "_request", "_slicer")

    def __init__(self, slicer: Slicer, request: PageRequest, answer: Sequence[Any]) -> None:
        self._slicer = slicer
        self._request = request
        self._answer = answer
        self._decoding = asyncio.Lock()
        self._page: StoredPage | None = None

    async def page(self) -> StoredPage:
        async with self._decoding:
            if self._page is None:
                self._page = await self._decode()
            return self._page

    async def _decode(self) -> StoredPage:
        channel = self._request[0]
        offset, uid, gap, flat, floor = self._answer
        deliveries: list[Delivery] = []
        for start in range(0, len(flat), 3 * MESSAGES_PER_PART):
            part = flat[start : start + 3 * MESSAGES_PER_PART]
            if (microseconds := len(part) // 3 * DECODE_MICROSECONDS) > SHORT_MICROSECONDS:
                await self._slicer.turn(microseconds)
            deliveries += [
                codec.unpack_delivery(channel, id, body) for id, body in codec.ids_and_bodies(part)
            ]
        return StoredPage(deliveries, MessageId(offset, uid.decode()), _GAP_REASONS[gap], floor)
