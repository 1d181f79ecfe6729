"""The inbox of this node: read from a cursor, trimmed behind it, watched for an overflow."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from redis import exceptions

from gateway.broker.redis import timeouts
from gateway.broker.redis.connection.connection import RedisConnection
from gateway.broker.redis.connection.error_table import rule_for
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.inbox.dispatcher import InboxDispatcher
from gateway.broker.redis.inbox.routes import Routes
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.membership.lease import Lease
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import Command
from gateway.clock import monotonic
from gateway.errors import GatewayError
from gateway.tasks import Tasks

COUNT = 500
"""Entries of one read."""

TRIM = 256
"""Entries that are read before the inbox is trimmed behind them."""


class InboxReader:
    """Reads one shard's inbox, entry by entry."""

    def __init__(
        self,
        wire: RedisConnection,
        routes: Routes,
        keys: Keys,
        options: RedisOptions,
        tasks: Tasks,
        contact: ShardHealth,
        lease: Lease,
        intake: InboxDispatcher,
    ) -> None:
        """Give *intake* what was read only while *lease* is held: a zombie must not speak."""
        self._wire = wire
        self._routes = routes
        self._keys = keys
        self._options = options
        self._tasks = tasks
        self._contact = contact
        self._lease = lease
        self._intake = intake
        self._reading: asyncio.Task[None] | None = None
        self._cursor = b"0-0"
        self._untrimmed = 0
        """Entries that were read since the inbox was last looked at."""
        self._whole: bytes | None = None
        """Up to here nothing was missing when it was looked at: this may be trimmed."""
        self._idle = False
        self._failing: float | None = None
        """Since when the inbox cannot be read."""
        self.entries = self.failures = 0
        self.unread = 0
        """Entries that waited in the inbox when it was last looked at."""

    def switch(self, node: str) -> None:
        """Read the inbox of *node* from its beginning; what was read of another is stale."""
        before, self._reading = self._reading, None
        if before is not None:
            before.cancel()
        self._reading = self._tasks.spawn(self._read(self._keys.inbox(node), before))

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        await self._wire.close()

    # ------------------------------------------------------------ the inbox

    async def _read(self, inbox: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        self._cursor, self._untrimmed, self._whole, self._idle = b"0-0", 0, None, False
        while True:
            try:
                await self._once(inbox)
            except Exception as error:  # noqa: BLE001 (a node that no longer listens is worse than any error)
                if self._failing is None:  # one report for each time that it begins
                    self._tasks.report(error)
                self._in_vain(GatewayError("something unexpected", details=repr(error)))
                await asyncio.sleep(timeouts.INBOX_READ_RETRY_SECONDS)

    async def _once(self, inbox: str) -> None:
        """Read what waits, or wait for it.

        What was read is trimmed in the exchange after the one that finds the inbox whole up to there, never
        in the same: where its answer is lost, an inbox that has overflowed must look like it next time, too.
        """
        before, cursor = self._whole, self._cursor
        look = before is None and (self._untrimmed >= TRIM or (self._untrimmed > 0 and self._idle))
        keep: list[Command] = [] if before is None else [("XTRIM", inbox, "MINID", before)]
        if look:
            keep = [("XLEN", inbox)]
        answers = await self._ask([*keep, self._next(inbox)])
        if answers is None:
            return
        refusal = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if refusal is None:
            self._reads_again()
        else:
            # What was read is handed on; but an inbox that cannot be trimmed overflows one day.
            self._refused(refusal)
            await asyncio.sleep(timeouts.INBOX_READ_RETRY_SECONDS)
        await self._lease.wait_until_held()
        if refusal is None:
            self._whole = None
            if look and await self._overflowed(inbox, answers[0], cursor):
                return
        entries = answers[-1][0][1] if answers[-1] else ()
        for id, fields in entries:
            # First, so that one that cannot be understood is not met again.
            self._cursor = id
            self._intake.take(fields[1], fields[3])
        self._idle = not entries
        self._untrimmed += len(entries)
        self.entries += len(entries)

    async def _overflowed(self, inbox: str, length: int, cursor: bytes) -> bool:
        """Note that the inbox was whole up to *cursor*; where it is too long for that, go on behind it."""
        # The one that was read last stays behind, each time.
        self.unread = max(0, length - self._untrimmed - 1)
        self._untrimmed, self._whole = 0, cursor
        if length < self._options.inbox_limit:
            return False
        # What was trimmed at the other end may have been of any channel.
        self._cursor = self._whole = await self._newest(inbox) or self._cursor
        self._routes.resume()
        return True

    def _next(self, inbox: str) -> Command:
        # After a failure at once: that it can be read again is news.
        wait = () if self._failing is not None else ("BLOCK", int(self._options.inbox_block * 1000))
        return ("XREAD", "COUNT", COUNT, *wait, "STREAMS", inbox, self._cursor)

    async def _newest(self, inbox: str) -> bytes | None:
        answers = await self._ask([("XREVRANGE", inbox, "+", "-", "COUNT", 1)])
        newest: bytes | None = answers[0][0][0] if answers and answers[0] else None
        return newest

    async def _ask(self, commands: Sequence[Command]) -> list[Any] | None:
        """Return Redis' answers; None, after a moment, where it refuses the last one or is not there."""
        packed = [self._wire.pack_command(command) for command in commands]
        try:
            answers = await self._wire.execute(
                packed, self._options.inbox_block + timeouts.INBOX_BLOCK_GRACE_SECONDS
            )
        except (exceptions.RedisError, OSError) as error:
            self._refused(error)
        else:
            if not isinstance(answers[-1], Exception):
                return answers
            self._refused(answers[-1])
        await asyncio.sleep(timeouts.jittered(timeouts.INBOX_READ_RETRY_SECONDS, random.random()))
        return None

    def _refused(self, error: Exception) -> None:
        fault = rule_for(error)
        self._contact.record_failure(fault)
        self._in_vain(fault.to_exception(error, self._wire.server))

    def _in_vain(self, why: GatewayError) -> None:
        now = monotonic()
        self.failures += 1
        self._failing = now if self._failing is None else self._failing
        if now - self._failing >= timeouts.INBOX_UNREADABLE_SECONDS:
            self._contact.inbox_unreadable(why)

    def _reads_again(self) -> None:
        if self._failing is not None:
            self._failing = None
            self._contact.inbox_readable()

    def __repr__(self) -> str:
        return f"<Reader {self.entries} entries {self.unread} unread>"
