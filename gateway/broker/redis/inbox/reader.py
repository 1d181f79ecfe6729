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
from gateway.broker.redis.scripts.registry import BYTES_PER_ENTRY, LARGE_BODY, TRIM_INBOX, Command
from gateway.clock import monotonic
from gateway.errors import GatewayError
from gateway.tasks import Tasks

ENTRIES_PER_READ = 500

TRIM_AFTER_ENTRIES = 256
TRIM_AFTER_BYTES = 1024 * 1024
"""Entries, and bytes of large bodies, that are read before the inbox is trimmed behind them."""

READ_BYTES = 1024 * 1024
"""Bytes that one read should return: with large entries, a read asks for fewer."""


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
        self._trim_after_bytes = min(TRIM_AFTER_BYTES, options.inbox_limit * BYTES_PER_ENTRY // 4)
        self._trim_bytes: int | None = 0
        """Bytes of large bodies before `_trim_to`; None if some of these entries were not read."""
        self._bytes_read = 0
        """Bytes of large bodies that were read and, as far as Redis counts, are still in the inbox."""
        self._cursor_bytes = 0
        """Those of the entry at the cursor, which trimming leaves in the inbox."""
        self._times_emptied: bytes | None = None
        """How often Redis had emptied the inbox at the last check, as Redis stores it."""
        self._count = ENTRIES_PER_READ
        """Entries that the next read asks for."""
        self._idle = False
        """Whether the last read returned nothing."""
        self._unreadable_since: float | None = None
        self.entries = self.failures = 0
        self.unread = 0
        """Entries that waited in the inbox when its length was last checked."""
        self.unread_bytes = 0
        """Bytes of the large bodies in the inbox when its length was last checked."""
        self.overflows = 0
        """How often entries were removed from the inbox before they were read."""

    def switch_inbox(self, incarnation: str) -> None:
        """Read the inbox of *incarnation* from its beginning; entries of the previous inbox are stale."""
        previous, self._reading = self._reading, None
        if previous is not None:
            previous.cancel()
        self._reading = self._tasks.spawn(self._read(incarnation, previous))

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

    async def _read(self, incarnation: str, previous: asyncio.Task[None] | None) -> None:
        inbox = self._keys.inbox(incarnation)
        if previous is not None:
            await asyncio.wait([previous])
        self._cursor, self._read_since_check, self._trim_to, self._idle = b"0-0", 0, None, False
        self._bytes_read = self._cursor_bytes = 0
        self._times_emptied = None
        while True:
            try:
                await self._read_once(inbox, incarnation)
            except Exception as error:  # noqa: BLE001 (no error may end the reading of the inbox)
                if self._unreadable_since is None:  # report only the first of several failures in a row
                    self._tasks.report(error)
                self._on_failure(GatewayError("something unexpected", details=repr(error)))
                await asyncio.sleep(timeouts.INBOX_READ_RETRY_SECONDS)

    async def _read_once(self, inbox: str, incarnation: str) -> None:
        """Read the entries of the inbox, waiting if it is empty, and pass them on.

        One exchange checks the length of the inbox at a cursor, and only the next exchange trims the inbox up
        to that cursor. If one exchange did both and its answer was lost, the next read could not see that the
        inbox had overflowed.
        """
        cursor, cursor_bytes = self._cursor, self._cursor_bytes
        check = self._trim_to is None and self._check_is_due()
        before_read = self._check_commands if check else self._trim_commands
        commands = before_read(inbox, incarnation)
        answers = await self._exchange([*commands, self._read_command(inbox)])
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
            if self._trim_to is not None:
                self._trim_to = None
                removed = self._trim_bytes
                self._bytes_read = cursor_bytes if removed is None else self._bytes_read - removed
            if check and await self._check_overflow(inbox, answers, cursor, cursor_bytes):
                return
        entries = answers[-1][0][1] if answers[-1] else ()
        bytes_before = self._bytes_read
        for id, fields in entries:
            # Before the call, so that an entry that cannot be decoded is not read again.
            self._cursor, self._cursor_bytes = id, 0
            if len(fields[3]) > LARGE_BODY:
                self._cursor_bytes = len(fields[3])
            self._bytes_read += self._cursor_bytes
            self._ordered_delivery.on_inbox_entry(fields[1], fields[3])
        if entries:
            self._count = entries_per_read(len(entries), self._bytes_read - bytes_before)
        self._idle = not entries
        self._read_since_check += len(entries)
        self.entries += len(entries)

    def _check_is_due(self) -> bool:
        return self._read_since_check > 0 and (
            self._idle
            or self._read_since_check >= TRIM_AFTER_ENTRIES
            or self._bytes_read >= self._trim_after_bytes
        )

    def _check_commands(self, inbox: str, incarnation: str) -> list[Command]:
        fields = f"in:{incarnation}", f"emptied:{incarnation}"
        return [("XLEN", inbox), ("HMGET", self._keys.state, *fields)]

    def _trim_commands(self, inbox: str, incarnation: str) -> list[Command]:
        trim_to = self._trim_to
        if trim_to is None:
            return []
        if self._trim_bytes == 0:
            return [("XTRIM", inbox, "MINID", trim_to)]
        known = "" if self._trim_bytes is None else self._trim_bytes
        return [TRIM_INBOX([self._keys.state, inbox], incarnation, trim_to, known)]

    async def _check_overflow(
        self, inbox: str, answers: Sequence[Any], cursor: bytes, cursor_bytes: int
    ) -> bool:
        """Allow trimming up to *cursor*; return whether the inbox has overflowed, according to *answers*.

        If it has, Redis has removed unread entries, of any channel: the oldest, because there were too many,
        or all, because they had too many bytes. So every channel is resubscribed, and reading continues
        after the newest entry.
        """
        length, (size, times_emptied) = answers[0], answers[1]
        # Trimming leaves the entry that was read last in the inbox.
        self.unread = max(0, length - self._read_since_check - 1)
        self.unread_bytes = max(0, int(size or 0) - self._bytes_read)
        self._read_since_check, self._trim_to = 0, cursor
        self._trim_bytes = self._bytes_read - cursor_bytes
        if length < self._options.inbox_limit and times_emptied == self._times_emptied:
            return False
        self.overflows += 1
        self._times_emptied = times_emptied
        self._cursor, self._cursor_bytes = await self._newest_entry(inbox) or (self._cursor, cursor_bytes)
        self._trim_to, self._trim_bytes = self._cursor, None
        self._routes.resubscribe_all()
        return True

    def _read_command(self, inbox: str) -> Command:
        # After a failure, do not block: it must be known soon whether the inbox can be read.
        block = () if self._unreadable_since is not None else ("BLOCK", int(self._options.inbox_block * 1000))
        return ("XREAD", "COUNT", self._count, *block, "STREAMS", inbox, self._cursor)

    async def _newest_entry(self, inbox: str) -> tuple[bytes, int] | None:
        """Return the id of the newest entry, and the bytes of its body if the body is large."""
        answers = await self._exchange([("XREVRANGE", inbox, "+", "-", "COUNT", 1)])
        if not (answers and answers[0]):
            return None
        id, fields = answers[0][0]
        return id, len(fields[3]) if len(fields[3]) > LARGE_BODY else 0

    async def _exchange(self, commands: Sequence[Command]) -> list[Any] | None:
        """Return Redis' answers; None, after a delay, if it rejects the last command or cannot be reached."""
        packed = [self._connection.pack_command(command) for command in commands]
        try:
            answers = await self._connection.execute_with_retry(
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


def entries_per_read(entries: int, size: int) -> int:
    """Return how many entries to ask for if the last *entries* had *size* bytes: about `READ_BYTES`."""
    return max(1, min(ENTRIES_PER_READ, READ_BYTES * entries // max(1, size)))
