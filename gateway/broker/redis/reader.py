"""The inbox of this node: read from a cursor, trimmed behind it, checked for holes, delivered in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions

from gateway.broker.base import Cleared, Envelope
from gateway.broker.redis import envelope, patience
from gateway.broker.redis.contact import Contact
from gateway.broker.redis.faults import fault_of
from gateway.broker.redis.followed import Entry, Followed, Verdict
from gateway.broker.redis.history import History
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.lease import Lease
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.routes import Routes
from gateway.broker.redis.script import Command
from gateway.broker.redis.wire import Wire
from gateway.clock import monotonic
from gateway.eager import Tasks
from gateway.errors import GatewayError
from protocol.messages import Gap, Join, Leave
from protocol.position import MessageId

COUNT = 500
"""Entries of one read."""

TRIM = 256
"""Entries that are read before the inbox is trimmed behind them."""

PAGE, PAGE_BYTES = 500, 1024 * 1024
"""Messages, and bytes of them, that healing asks for at a time."""


class Reader:
    """Reads one shard's inbox and hands on what is for this node."""

    def __init__(
        self,
        wire: Wire,
        routes: Routes,
        history: History,
        keys: Keys,
        options: RedisOptions,
        tasks: Tasks,
        contact: Contact,
        lease: Lease,
        *,
        deliver: Callable[[Envelope], None],
        questions: Callable[[bytes, list[bytes], bytes], None],
    ) -> None:
        """Hand on what was read only while *lease* is held: a zombie must not speak."""
        self._wire = wire
        self._routes = routes
        self._history = history
        self._keys = keys
        self._options = options
        self._tasks = tasks
        self._contact = contact
        self._deliver = deliver
        self._lease = lease
        self._questions = questions
        self._reading: asyncio.Task[None] | None = None
        self._cursor = b"0-0"
        self._untrimmed = 0
        """Entries that were read and are still there."""
        self._idle = False
        self._failing: float | None = None
        """Since when the inbox cannot be read."""
        self.entries = self.healed = self.gaps = self.failures = 0
        self.unread = 0
        """Entries that waited in the inbox when it was last trimmed."""

    def switch(self, node: str) -> None:
        """Read the inbox of *node* from its beginning; what was read of another is stale."""
        before, self._reading = self._reading, None
        if before is not None:
            before.cancel()
        self._reading = self._tasks.adopt(self._read(self._keys.inbox(node), before))

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
        self._cursor, self._untrimmed, self._idle = b"0-0", 0, False
        while True:
            try:
                await self._once(inbox)
            except Exception as error:  # noqa: BLE001 (a node that no longer listens is worse than any error)
                if self._failing is None:  # one report for each time that it begins
                    self._tasks.report(error)
                self._in_vain(repr(error))
                await asyncio.sleep(patience.READ)

    async def _once(self, inbox: str) -> None:
        """Read what waits, or wait for it."""
        trim: list[Command] = []
        if self._untrimmed >= TRIM or (self._untrimmed and self._idle):
            trim = [("XLEN", inbox), ("XTRIM", inbox, "MINID", self._cursor)]
        answers = await self._ask([*trim, self._next(inbox)])
        if answers is None:
            return
        refusal = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if refusal is None:
            self._reads_again()
        else:
            # What was read is handed on; but an inbox that cannot be trimmed overflows one day.
            self._refused(refusal)
            trim = []
            await asyncio.sleep(patience.READ)
        if not self._lease.held:
            await self._lease.established()
        if trim:
            # The one that was read last stays behind, each time.
            self.unread = max(0, answers[0] - self._untrimmed - 1)
            self._untrimmed = 0
            if answers[0] >= self._options.inbox:
                # What was trimmed at the other end may have been of any channel.
                self._cursor = await self._newest(inbox) or self._cursor
                self._routes.resume()
                return
        entries = answers[-1][0][1] if answers[-1] else ()
        for id, fields in entries:
            # First, so that one that cannot be understood is not met again.
            self._cursor = id
            self._apply(fields[1], fields[3])
        self._idle = not entries
        self._untrimmed += len(entries)
        self.entries += len(entries)

    def _next(self, inbox: str) -> Command:
        # After a failure at once: that it can be read again is news.
        wait = () if self._failing is not None else ("BLOCK", int(self._options.block * 1000))
        return ("XREAD", "COUNT", COUNT, *wait, "STREAMS", inbox, self._cursor)

    async def _newest(self, inbox: str) -> bytes | None:
        answers = await self._ask([("XREVRANGE", inbox, "+", "-", "COUNT", 1)])
        newest: bytes | None = answers[0][0][0] if answers and answers[0] else None
        return newest

    async def _ask(self, commands: Sequence[Command]) -> list[Any] | None:
        """Return Redis' answers; None, after a moment, where it refuses the last one or is not there."""
        packed = [self._wire.pack(command) for command in commands]
        try:
            answers = await self._wire.exchange(packed, self._options.block + patience.GRACE)
        except (exceptions.RedisError, OSError) as error:
            self._refused(error)
        else:
            if not isinstance(answers[-1], Exception):
                return answers
            self._refused(answers[-1])
        await asyncio.sleep(patience.some(patience.READ, random.random()))
        return None

    def _refused(self, error: Exception) -> None:
        fault = fault_of(error)
        self._contact.failed(fault)
        self._in_vain(str(fault.error(error, self._wire.server)))

    def _in_vain(self, why: str) -> None:
        now = monotonic()
        self.failures += 1
        self._failing = now if self._failing is None else self._failing
        if now - self._failing >= patience.DEAF:
            self._contact.deaf(f"the inbox cannot be read: {why}")

    def _reads_again(self) -> None:
        if self._failing is not None:
            self._failing = None
            self._contact.heard()

    # ------------------------------------------------------------ entries

    def _apply(self, head: bytes, body: bytes) -> None:
        kind = head[:1]
        if kind == b"m":
            _, offset, uid, before, name = head.split(b" ", 4)
            if (followed := self._routes.followed.get(name)) is not None:
                identity = None if offset == b"0" else MessageId(int(offset), uid.decode())
                self._take(followed, Entry(kind, identity, before.decode(), body))
        elif kind in _OF_CHANNELS:
            if (followed := self._routes.followed.get(head[2:])) is not None:
                self._take(followed, Entry(kind, None, "", body))
        elif kind == b"s":
            _, offset, uid, token, name = head.split(b" ", 4)
            if (followed := self._routes.followed.get(name)) is not None:
                self._mark(followed, token.decode(), MessageId(int(offset), uid.decode()))
        else:
            self._questions(kind, head.split(b" "), body)

    def _mark(self, followed: Followed, token: str, position: MessageId) -> None:
        verdict = followed.marked(token, position if followed.numbered else None)
        if verdict is Verdict.HEAL:
            self._tasks.adopt(self._heal(followed, followed.life))
        elif verdict is Verdict.DELIVER and followed.missed:
            followed.missed = False
            if not followed.name.startswith("="):
                self._gap(followed, "reset", None)

    def _take(self, followed: Followed, entry: Entry, *, healed: bool = False) -> None:
        verdict = followed.take(entry, healed=healed)
        if verdict is Verdict.DELIVER:
            self._hand_on(followed.name, entry)
        elif verdict is Verdict.HEAL:
            self._tasks.adopt(self._heal(followed, followed.life))

    def _hand_on(self, name: str, entry: Entry) -> None:
        if entry.kind == b"m":
            self._deliver(envelope.unpack(name, entry.id, entry.body))
        elif entry.kind == b"c":
            self._deliver(Cleared(name))
        else:
            announce = Join if entry.kind == b"j" else Leave
            self._deliver(announce(name, envelope.unpack_member(entry.body)))

    def _gap(self, followed: Followed, reason: str, position: MessageId | None) -> None:
        self.gaps += 1
        self._deliver(Gap(followed.name, reason, position))

    # ------------------------------------------------------------ holes

    async def _heal(self, followed: Followed, life: int) -> None:
        """Deliver from history what is missing, or tell of it; then what was held meanwhile."""
        while followed.life == life and not await self._caught_up(followed, life):
            continue
        held = followed.release() if followed.life == life else []
        for number, entry in enumerate(held):
            self._take(followed, entry, healed=True)
            if followed.held is not None:
                followed.held.extend(held[number + 1 :])
                return

    async def _caught_up(self, followed: Followed, life: int) -> bool:
        """Deliver the next page of what is missing; return whether that is all."""
        try:
            page = await self._history.page(followed.name, followed.last, PAGE, PAGE_BYTES)
        except GatewayError:
            await asyncio.sleep(patience.some(patience.READ, random.random()))
            return False
        except Exception as error:  # noqa: BLE001 (a history that cannot be understood heals nothing: go on without)
            self._tasks.report(error)
            if followed.life == life:
                followed.last = None
                self._gap(followed, "reset", None)
            return True
        if not self._lease.held:
            await self._lease.established()
        if followed.life != life:
            return False
        if page.fault:
            followed.last = page.position
            self._gap(followed, page.fault, page.position)
        for delivery in page.deliveries:
            self.healed += 1
            followed.last = delivery.message.message
            self._deliver(delivery)
        if followed.last != page.position:
            return False
        if followed.overflowed:
            followed.overflowed, followed.held = False, []
            return False
        return True

    def __repr__(self) -> str:
        return f"<Reader {self.entries} entries {self.healed} healed {self.gaps} gaps>"


_OF_CHANNELS = frozenset((b"j", b"l", b"c"))
