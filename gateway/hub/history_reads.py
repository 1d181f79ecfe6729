"""Reads of histories for the clients of a node, of which only so many run at once."""

from __future__ import annotations

import asyncio

from gateway.broker.base import Broker, HistorySlice
from protocol.position import MessageId

READS_AT_ONCE = 64
"""Reads that run at once on a node; each may bring 512 KiB, half an outbox. Further ones wait for their turn.

A read takes a round trip to Redis, or nothing with the memory broker. A Redis that does not answer fails the
reads that run after `history_timeout`, and then opens its breaker, which fails the others at once.
"""


class HistoryReads:
    """The histories of a broker."""

    __slots__ = ("_broker", "_slots")

    def __init__(self, broker: Broker, at_once: int = READS_AT_ONCE) -> None:
        """Read from *broker*, *at_once* reads at the same time."""
        self._broker = broker
        self._slots = asyncio.Semaphore(at_once)

    async def read(
        self,
        channel: str,
        *,
        since: MessageId | None = None,
        limit: int | None = None,
        size: int | None = None,
        reverse: bool = False,
    ) -> HistorySlice:
        """Return a slice as `MessageBroker.read` specifies it, once fewer than the allowed reads run."""
        async with self._slots:
            return await self._broker.read(channel, since=since, limit=limit, size=size, reverse=reverse)
