"""What comes out of an inbox: handed on in order, and what is missing of it healed from history, or told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from gateway.broker.base import Envelope, HistoryCleared, PossibleLoss
from gateway.broker.redis import codec, timeouts
from gateway.broker.redis.inbox.channel_state import ChannelState, EntryAction, InboxEntry
from gateway.broker.redis.inbox.routes import Routes
from gateway.broker.redis.membership.lease import Lease
from gateway.broker.redis.operations.history import HistoryReader
from gateway.errors import GatewayError
from gateway.tasks import Tasks
from protocol.messages import Gap, Join, Leave
from protocol.position import MessageId

PAGE, PAGE_BYTES = 500, 1024 * 1024
"""Messages, and bytes of them, that healing asks for at a time."""

HEALING = 16
"""Channels that are healed at once: thousands have a hole after an outage, and each holds a page."""


class InboxDispatcher:
    """Takes the entries of one shard's inbox, and hands on what is for this node."""

    def __init__(
        self,
        routes: Routes,
        history: HistoryReader,
        lease: Lease,
        tasks: Tasks,
        *,
        deliver: Callable[[Envelope], None],
        questions: Callable[[bytes, list[bytes], bytes], None],
    ) -> None:
        """Give *deliver* what is of a channel, only while *lease* is held: a zombie must not speak.

        The rest is for *questions*.
        """
        self._routes = routes
        self._history = history
        self._lease = lease
        self._tasks = tasks
        self._deliver = deliver
        self._questions = questions
        self._healing = asyncio.Semaphore(HEALING)
        self.healed = self.gaps = 0

    def take(self, head: bytes, body: bytes) -> None:
        """Take one entry, in the order of the inbox."""
        kind = head[:1]
        if kind == b"m":
            _, offset, uid, before, name = head.split(b" ", 4)
            if (followed := self._routes.followed.get(name)) is not None:
                identity = None if offset == b"0" else MessageId(int(offset), uid.decode())
                self._take(followed, InboxEntry(kind, identity, before.decode(), body))
        elif kind in _OF_CHANNELS:
            if (followed := self._routes.followed.get(head[2:])) is not None:
                self._take(followed, InboxEntry(kind, None, "", body))
        elif kind == b"s":
            _, offset, uid, token, name = head.split(b" ", 4)
            if (followed := self._routes.followed.get(name)) is not None:
                self._mark(followed, token.decode(), MessageId(int(offset), uid.decode()))
        else:
            self._questions(kind, head.split(b" "), body)

    def _mark(self, followed: ChannelState, token: str, position: MessageId) -> None:
        verdict = followed.marked(token, position if followed.numbered else None)
        if verdict is EntryAction.HEAL:
            self._tasks.spawn(self._heal(followed, followed.life))
        elif verdict is EntryAction.DELIVER and followed.held is None:
            self._tell(followed)

    def _take(self, followed: ChannelState, entry: InboxEntry, *, healed: bool = False) -> None:
        verdict = followed.take(entry, healed=healed)
        if verdict is EntryAction.DELIVER:
            self._hand_on(followed.name, entry)
        elif verdict is EntryAction.HEAL:
            self._tasks.spawn(self._heal(followed, followed.life))

    def _hand_on(self, name: str, entry: InboxEntry) -> None:
        if entry.kind == b"m":
            self._deliver(codec.unpack(name, entry.id, entry.body))
        elif entry.kind == b"c":
            self._deliver(HistoryCleared(name))
        else:
            announce = Join if entry.kind == b"j" else Leave
            self._deliver(announce(name, codec.unpack_member(entry.body)))

    def _tell(self, followed: ChannelState) -> None:
        """Say that something may be missing, if so, now that the rest is there."""
        missed, followed.missed = followed.missed, False
        if not missed or followed.name.startswith("="):
            return
        if followed.numbered:
            self._deliver(PossibleLoss(followed.name))
        else:
            self._gap(followed, "reset", None)

    def _gap(self, followed: ChannelState, reason: str, position: MessageId | None) -> None:
        self.gaps += 1
        followed.missed = False
        self._deliver(Gap(followed.name, reason, position))

    # ------------------------------------------------------------ holes

    async def _heal(self, followed: ChannelState, life: int) -> None:
        """Deliver from history what is missing, or tell of it; then what was held meanwhile."""
        while followed.life == life and not await self._caught_up(followed, life):
            continue
        if followed.life != life:
            return
        self._tell(followed)
        held = followed.release()
        for number, entry in enumerate(held):
            self._take(followed, entry, healed=True)
            if followed.held is not None:
                followed.held.extend(held[number + 1 :])
                return

    async def _caught_up(self, followed: ChannelState, life: int) -> bool:
        """Deliver the next page of what is missing, in turn; return whether that is all."""
        async with self._healing:
            await self._lease.wait_until_held()
            return followed.life == life and await self._next_page(followed, life)

    async def _next_page(self, followed: ChannelState, life: int) -> bool:
        try:
            page = await self._history.page(followed.name, followed.last, PAGE, PAGE_BYTES)
        except GatewayError:
            await asyncio.sleep(timeouts.jittered(timeouts.INBOX_READ_RETRY_SECONDS, random.random()))
            return False
        except Exception as error:  # noqa: BLE001 (a history that cannot be understood heals nothing: go on without)
            self._tasks.report(error)
            if followed.life == life:
                followed.last = None
                self._gap(followed, "reset", None)
            return True
        await self._lease.wait_until_held()
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
            followed.look_again()
            return False
        return True

    def __repr__(self) -> str:
        return f"<Intake {self.healed} healed {self.gaps} gaps>"


_OF_CHANNELS = frozenset((b"j", b"l", b"c"))
