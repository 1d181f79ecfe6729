"""Reads this node's inbox from a cursor, trims it behind the cursor, and notices when it has overflowed."""

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
from gateway.broker.redis.inbox.ordered_delivery import OrderedDelivery
from gateway.broker.redis.inbox.routes import Routes
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.membership.lease import Lease
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import Command
from gateway.clock import monotonic
from gateway.errors import GatewayError
from gateway.tasks import Tasks

ENTRIES_PER_READ = 500

TRIM_AFTER_ENTRIES = 256
"""Entries that are read before the inbox is trimmed behind them."""


class InboxReader:
    """Reads one shard's inbox and passes each entry to `OrderedDelivery`."""

    def __init__(
        self,
        connection: RedisConnection,
        routes: Routes,
        keys: Keys,
        options: RedisOptions,
        tasks: Tasks,
        health: ShardHealth,
        lease: Lease,
        ordered_delivery: OrderedDelivery,
    ) -> None:
        """Prepare to read; `switch_inbox` starts reading.

        Entries are passed on only while *lease* is held: a fenced node must not deliver stale messages.
        """
        self._connection = connection
        self._routes = routes
        self._keys = keys
        self._options = options
        self._tasks = tasks
        self._health = health
        self._lease = lease
        self._ordered_delivery = ordered_delivery
        self._reading: asyncio.Task[None] | None = None
        self._cursor = b"0-0"
        """The id of the entry that was passed on last."""
        self._read_since_check = 0
        """Entries that were read since the length of the inbox was last checked."""
        self._trim_to: bytes | None = None
        """The id up to which the last check found no entry missing: entries before this id may be trimmed."""
        self._idle = False
        """Whether the last read returned nothing."""
        self._unreadable_since: float | None = None
        self.entries = self.failures = 0
        self.unread = 0
        """Entries that waited in the inbox when its length was last checked."""

    def switch_inbox(self, incarnation: str) -> None:
        """Read the inbox of *incarnation* from its beginning; entries of the previous inbox are stale."""
        previous, self._reading = self._reading, None
        if previous is not None:
            previous.cancel()
        self._reading = self._tasks.spawn(self._read(self._keys.inbox(incarnation), previous))

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        await self._connection.close()

    @property
    def replaced(self) -> int:
        """How often the connection was found closed, and was replaced."""
        return self._connection.replaced

    # ------------------------------------------------------------ the inbox

    async def _read(self, inbox: str, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        self._cursor, self._read_since_check, self._trim_to, self._idle = b"0-0", 0, None, False
        while True:
            try:
                await self._read_once(inbox)
            except Exception as error:  # noqa: BLE001 (no error may end the reading of the inbox)
                if self._unreadable_since is None:  # report only the first of several failures in a row
                    self._tasks.report(error)
                self._on_failure(GatewayError("something unexpected", details=repr(error)))
                await asyncio.sleep(timeouts.INBOX_READ_RETRY_SECONDS)

    async def _read_once(self, inbox: str) -> None:
        """Read the entries of the inbox, waiting if it is empty, and pass them on.

        One exchange checks the length of the inbox at a cursor, and only the next exchange trims the inbox up
        to that cursor. If one exchange did both and its answer was lost, the next read could not see that the
        inbox had overflowed.
        """
        trim_to, cursor = self._trim_to, self._cursor
        check = trim_to is None and (
            self._read_since_check >= TRIM_AFTER_ENTRIES or (self._read_since_check > 0 and self._idle)
        )
        length_or_trim_commands: list[Command] = (
            [] if trim_to is None else [("XTRIM", inbox, "MINID", trim_to)]
        )
        if check:
            length_or_trim_commands = [("XLEN", inbox)]
        answers = await self._exchange([*length_or_trim_commands, self._read_command(inbox)])
        if answers is None:
            return
        rejection = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if rejection is None:
            self._on_success()
        else:
            # The entries that were read are passed on; but an inbox that cannot be trimmed will overflow.
            self._on_rejection(rejection)
            await asyncio.sleep(timeouts.INBOX_READ_RETRY_SECONDS)
        await self._lease.wait_until_held()
        if rejection is None:
            self._trim_to = None
            if check and await self._check_overflow(inbox, answers[0], cursor):
                return
        entries = answers[-1][0][1] if answers[-1] else ()
        for id, fields in entries:
            # Before the call, so that an entry that cannot be decoded is not read again.
            self._cursor = id
            self._ordered_delivery.on_inbox_entry(fields[1], fields[3])
        self._idle = not entries
        self._read_since_check += len(entries)
        self.entries += len(entries)

    async def _check_overflow(self, inbox: str, length: int, cursor: bytes) -> bool:
        """Allow trimming up to *cursor*; return whether the inbox, now *length* entries long, has overflowed.

        If it has, `XADD MAXLEN` has removed the oldest unread entries, of any channel. So every channel is
        resubscribed, and reading continues after the newest entry.
        """
        # Trimming leaves the entry that was read last in the inbox.
        self.unread = max(0, length - self._read_since_check - 1)
        self._read_since_check, self._trim_to = 0, cursor
        if length < self._options.inbox_limit:
            return False
        self._cursor = self._trim_to = await self._newest_id(inbox) or self._cursor
        self._routes.resubscribe_all()
        return True

    def _read_command(self, inbox: str) -> Command:
        # After a failure, do not block: it must be known soon whether the inbox can be read.
        block = () if self._unreadable_since is not None else ("BLOCK", int(self._options.inbox_block * 1000))
        return ("XREAD", "COUNT", ENTRIES_PER_READ, *block, "STREAMS", inbox, self._cursor)

    async def _newest_id(self, inbox: str) -> bytes | None:
        answers = await self._exchange([("XREVRANGE", inbox, "+", "-", "COUNT", 1)])
        newest: bytes | None = answers[0][0][0] if answers and answers[0] else None
        return newest

    async def _exchange(self, commands: Sequence[Command]) -> list[Any] | None:
        """Return Redis' answers; None, after a delay, if it rejects the last command or cannot be reached."""
        packed = [self._connection.pack_command(command) for command in commands]
        try:
            answers = await self._connection.execute(
                packed, self._options.inbox_block + timeouts.INBOX_BLOCK_GRACE_SECONDS
            )
        except (exceptions.RedisError, OSError) as error:
            self._on_rejection(error)
        else:
            if not isinstance(answers[-1], Exception):
                return answers
            self._on_rejection(answers[-1])
        await asyncio.sleep(timeouts.jittered(timeouts.INBOX_READ_RETRY_SECONDS, random.random()))
        return None

    # ------------------------------------------------------------ whether it can be read

    def _on_rejection(self, error: Exception) -> None:
        rule = rule_for(error)
        self._health.record_failure(rule)
        self._on_failure(rule.to_exception(error, self._connection.server))

    def _on_failure(self, error: GatewayError) -> None:
        """Count a failure; a node that cannot read its inbox for `INBOX_UNREADABLE_SECONDS` is not ready."""
        now = monotonic()
        self.failures += 1
        self._unreadable_since = now if self._unreadable_since is None else self._unreadable_since
        if now - self._unreadable_since >= timeouts.INBOX_UNREADABLE_SECONDS:
            self._health.inbox_unreadable(error)

    def _on_success(self) -> None:
        if self._unreadable_since is not None:
            self._unreadable_since = None
            self._health.inbox_readable()

    def __repr__(self) -> str:
        return f"<InboxReader {self.entries} entries {self.unread} unread>"
