"""A node's life in Redis: one id per incarnation, a lease that is renewed, and the ends of others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from gateway.broker.log import new_uid
from gateway.broker.redis.contact import Contact
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.line import Line
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.publisher import milliseconds
from gateway.broker.redis.script import BUMP, REAP, RENEW
from gateway.clock import Clock
from gateway.errors import GatewayError

MARGIN = 0.9
"""Of the lease, the part that Redis hears of: what follows its end is over before the lease is."""

RENEWALS = 3
"""In one lease."""

RETRY = 0.2
"""Seconds between two attempts to reach a Redis that is not there, about."""

REST = 0.02
"""Seconds between two renewals at least, however often the bell rings."""

REAPED = 200
"""Routes or members that one call cleans up."""


class Lease:
    """Holds this node's lease on one shard."""

    def __init__(
        self,
        line: Line,
        keys: Keys,
        contact: Contact,
        options: RedisOptions,
        *,
        name: str,
        record: Callable[[], bytes],
        begun: Callable[[str, bool], None],
        renewed: Callable[[], None],
        clock: Clock,
    ) -> None:
        """Call *begun* with each incarnation's id and whether Redis has lost writes, *renewed* after that."""
        self.node = ""
        self._line = line
        self._keys = keys
        self._contact = contact
        self._ttl = options.lease * MARGIN
        self._every = options.lease / RENEWALS
        self._bound = options.inbox
        self._name = name
        self._record = record
        self._begun = begun
        self._renewed = renewed
        self._clock = clock
        self._epoch = b""
        self._beat = 0
        self._until = 0.0
        self._steady: float | None = None
        self._first: tuple[str, float] | None = None
        """Another node, and when its lease ends by our clock: the earliest."""
        self._holding = asyncio.Event()
        self.incarnations = self.reaped = self.resets = 0

    # ------------------------------------------------------------ what others ask

    @property
    def held(self) -> bool:
        """Whether the lease is surely held; else wait until it is `established`."""
        if self._clock() < self._until:
            return True
        self._holding.clear()
        return False

    async def established(self) -> None:
        """Wait for the lease."""
        await self._holding.wait()

    # ------------------------------------------------------------ its life

    async def run(self) -> None:
        """Keep the lease for as long as this runs, and clean up after nodes that did not keep theirs."""
        bell = self._contact.bell
        while True:
            bell.clear()
            wait = await self._once()
            await asyncio.sleep(REST)
            try:
                async with asyncio.timeout(wait):
                    await bell.wait()
            except TimeoutError:
                continue

    async def retire(self) -> None:
        """Give the lease up, and what goes with it, at once."""
        self._until = 0.0
        if self.node and self._contact.up:
            try:
                await self._clean_up(self.node, willing=True)
            except GatewayError:
                return

    async def _once(self) -> float:
        """Take or renew the lease, reap who lost theirs; return in how many seconds to do so again."""
        self._contact.breaker.admit()  # where it is open, this is the call that decides
        try:
            if self._contact.regressed:
                await self._bump()
            await self._renew()
        except GatewayError as error:
            self._contact.lost(str(error))
            self._steady = None
            await asyncio.sleep(RETRY * (0.5 + random.random()))
            return RETRY
        return await self._reap()

    async def _renew(self) -> None:
        sent = self._clock()
        if not self.node:
            await self._begin(lost=False)
            return
        told = await self._ask(self.node, take=False)
        _, held, epoch, beat, *_ = told
        if self._contact.regressed or (beat != self._beat + 1 and held and epoch == self._epoch):
            await self._bump()
            await self._begin(lost=True)
        elif not held or epoch != self._epoch:
            await self._begin(lost=epoch != self._epoch)
        else:
            self._hold(sent, told)
            self._renewed()

    async def _begin(self, *, lost: bool) -> None:
        """Begin a new incarnation."""
        node = f"{self._name}~{new_uid()}"
        sent = self._clock()
        told = await self._ask(node, take=True)
        self.incarnations += 1
        self.resets += lost
        self.node, self._epoch = node, told[2]
        if lost:
            self._contact.recount(told[0])
        self._contact.established()
        self._begun(node, lost)
        # Only now: whoever waited with what it had read for the old incarnation has been cancelled by this.
        self._hold(sent, told)

    def _hold(self, sent: float, told: list[Any]) -> None:
        _, _, _, self._beat, now, other, expiry = told
        self._until = sent + self._ttl
        self._contact.established()
        self._holding.set()
        if self._steady is None:
            self._steady = sent
        self._first = (other.decode(), self._clock() + (expiry - now) / 1000) if other else None

    async def _ask(self, node: str, *, take: bool) -> list[Any]:
        keys = self._keys
        told: list[Any] = await self._line.call(
            RENEW(
                [keys.state, keys.nodes, keys.figures, keys.beats],
                node,
                milliseconds(self._ttl),
                self._record(),
                new_uid(),
                int(take),
            )
        )
        return told

    async def _bump(self) -> None:
        """Begin a new epoch: every position that was given out before is in doubt."""
        await self._line.call(BUMP([self._keys.state], self._epoch, new_uid()))

    # ------------------------------------------------------------ others' ends

    async def _reap(self) -> float:
        """Clean up after the node whose lease ended first, if it has; return the seconds to the next look."""
        if self._first is None or self._steady is None:
            return self._every
        node, end = self._first
        # After Redis was away all leases are over, and everybody is about to renew: wait while they may.
        end = max(end, self._steady + self._ttl)
        left = end - self._clock()
        if left > 0:
            return min(self._every, left + random.random() * self._ttl / 100)
        try:
            await self._clean_up(node, willing=False)
        except GatewayError:
            self._contact.bell.set()
            return RETRY
        return 0.0

    async def _clean_up(self, node: str, *, willing: bool) -> None:
        keys, left = self._keys, 1
        command = REAP(
            [
                keys.state,
                keys.nodes,
                keys.figures,
                keys.beats,
                keys.names,
                keys.of(node),
                keys.members(node),
                keys.inbox(node),
            ],
            node,
            REAPED,
            int(willing),
            keys.routes,
            keys.who_of,
            keys.inboxes,
            self._bound,
        )
        while left > 0:
            _, left = await self._line.call(command)
        self.reaped += left == 0 and not willing

    def __repr__(self) -> str:
        return f"<Lease {self.node or self._name} {'held' if self._clock() < self._until else 'not held'}>"
