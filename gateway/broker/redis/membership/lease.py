"""A node's life in Redis: one id per incarnation, a lease that is renewed, and a look at those of others."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from gateway.broker.redis import timeouts
from gateway.broker.redis.connection.error_table import SlotMoving
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pipeline import Pipeline
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.membership.reaper import Reaper
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import BUMP, RENEW, milliseconds
from gateway.broker.uid import new_uid
from gateway.clock import Clock
from gateway.errors import BrokerUnavailable, GatewayError

MARGIN = 0.9
"""Of the lease, the part that Redis hears of: what follows its end is over before the lease is."""

RENEWALS = 3
"""In one lease."""

UNKNOWN = -1
"""What Redis says of a lease that it has lost."""

REFUSED = -2
"""What Redis says to a node that has other servers or shards than those that run."""

PAST = 100
"""Incarnations that are remembered: each was reaped long before so many others have been."""


class Lease:
    """Holds this node's lease on one shard."""

    def __init__(  # noqa: PLR0913 (what it tells, and to whom)
        self,
        line: Pipeline,
        keys: Keys,
        contact: ShardHealth,
        reaper: Reaper,
        options: RedisOptions,
        *,
        name: str,
        layout: str,
        record: Callable[[], bytes],
        begun: Callable[[str, bool], None],
        renewed: Callable[[], None],
        report: Callable[[BaseException], None],
        clock: Clock,
    ) -> None:
        """Hold it only where every other node has the same *layout*: the same servers and shards.

        Call *begun* with each incarnation's id and whether others think it gone, *renewed* after that.
        """
        self.node = ""
        self.past: deque[str] = deque(maxlen=PAST)
        """Incarnations of this node, which Redis may still know."""
        self._line = line
        self._keys = keys
        self._contact = contact
        self._reaper = reaper
        self._ttl = options.lease * MARGIN
        self.every = options.beat or options.lease / RENEWALS
        """Seconds between two renewals, at most."""
        self._name = name
        self._layout = layout
        self._record = record
        self._begun = begun
        self._renewed = renewed
        self._report = report
        self._clock = clock
        self.now = 0
        """When it was last renewed, in Unix ms by Redis' clock."""
        self._epoch = b""
        self._until = 0.0
        self._steady: float | None = None
        self._first: tuple[str, float] | None = None
        """Another node, and when its lease ends by our clock: the earliest."""
        self._outsider = False
        """Whether those who ran when Redis was last asked had another layout."""
        self._vacant: float | None = None
        """Since when nobody has had one, where this node is an outsider."""
        self._holding = asyncio.Event()
        self.incarnations = self.resets = 0

    # ------------------------------------------------------------ what others ask

    @property
    def held(self) -> bool:
        """Whether the lease is surely held; else wait until it is `established`."""
        return self._clock() < self._until

    async def established(self) -> None:
        """Wait until the lease is held, if it is not."""
        while not self.held:
            self._holding.clear()
            await self._holding.wait()

    # ------------------------------------------------------------ its life

    async def run(self) -> None:
        """Keep the lease for as long as this runs, and clean up after nodes that did not keep theirs."""
        bell = self._contact.bell
        while True:
            bell.clear()
            try:
                wait = await self._once()
            except Exception as error:  # noqa: BLE001 (whatever it is, a node must not lose its lease over it)
                self._report(error)
                wait = timeouts.RECONNECT
            await asyncio.sleep(timeouts.RENEW)
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
                await self._reaper.clean_up(self.node, willing=True)
            except GatewayError:
                return

    async def _once(self) -> float:
        """Take or renew the lease, reap who lost theirs; return in how many seconds to do so again."""
        self._contact.breaker.admit()  # where it is open, this is the call that decides
        try:
            await self._twice()
        except GatewayError as error:
            if not (isinstance(error, SlotMoving) and self.held):
                self._contact.lost(error)
            self._steady = None
            await asyncio.sleep(timeouts.some(timeouts.RECONNECT, random.random()))
            return timeouts.RECONNECT
        wait = await self._reap()
        breaker = self._contact.breaker
        return wait if breaker.closed else min(wait, max(breaker.waits, timeouts.RENEW))

    async def _twice(self) -> None:
        """Renew, and where that fails with Redis believed to be there, once more: over a new connection."""
        begun = self._clock()
        try:
            await self._renew()
        except GatewayError:
            if not self._contact.up or self._clock() - begun > timeouts.QUICK:
                raise
            await self._renew()

    async def _renew(self) -> None:
        if not self.node:
            await self._begin(missed=False)
            return
        sent, contact = self._clock(), self._contact
        written = 0 if contact.regressed else contact.beat
        told = await self._ask(self.node)
        _, held, epoch, *_, buried = told
        # After this node was cleaned up after, it counts from 1 again without any loss: then it is known how
        # much it had written by that time, before which Redis may have lost some.
        if held == UNKNOWN or (held and contact.regressed) or (not held and buried < written):
            # Unless another node was quicker: then the epoch is not the one that we knew.
            await self._line.call(BUMP([self._keys.state], self._epoch, new_uid()))
            await self._begin(missed=not held or sent >= self._until)
        elif not held or epoch != self._epoch:
            await self._begin(missed=not held)
        else:
            self._hold(sent, told)
            self._renewed()

    async def _begin(self, *, missed: bool) -> None:
        """Begin a new incarnation; *missed* says that others may have been told that this node is gone."""
        node = f"{self._name}~{new_uid()}"
        sent = self._clock()
        self.past.append(node)  # also where the answer does not come: Redis may know it
        told = await self._ask(node, take=True)
        self.incarnations += 1
        if self._epoch and self._epoch != told[2]:
            self.resets += 1
            self._contact.forgot()
        self.node, self._epoch = node, told[2]
        self._contact.begin(node, told[0])
        self._contact.established()
        self._begun(node, missed)
        # Only now: whoever waited with what it had read for the old incarnation has been cancelled by this.
        self._hold(sent, told)

    def _hold(self, sent: float, told: list[Any]) -> None:
        _, _, _, now, other, expiry, _ = told
        self._until = sent + self._ttl
        self.now = now
        self._contact.established()
        self._holding.set()
        if self._steady is None:
            self._steady = sent
        self._first = (other.decode(), self._clock() + (expiry - now) / 1000) if other else None

    async def _ask(self, node: str, *, take: bool = False) -> list[Any]:
        keys = self._keys
        command = RENEW(
            [keys.state, keys.nodes, keys.figures, keys.beats, keys.layout],
            node,
            milliseconds(self._ttl),
            self._record(),
            new_uid(),
            int(take),
            self._layout,
            int(self._outsider and not self._waited()),
        )
        try:
            told: list[Any] = await self._line.call(command)
        except GatewayError:
            self._vacant = None  # the others may not have been able to come back, either
            raise
        if told[1] == REFUSED:
            error = self._refused(told[2].decode())
            self._contact.refused(error)
            raise error
        self._outsider, self._vacant = False, None
        self._contact.admitted()
        return told

    def _refused(self, others: str) -> BrokerUnavailable:
        """Return what is said where *others* have another layout, or nobody has any: they may be back soon.

        After an outage that was longer than a lease, or where Redis has lost all, whoever ran before has the
        time of one lease to go on, before one that was refused takes its place.
        """
        self._outsider = True
        if others:
            self._vacant = None
        elif self._vacant is None:
            self._vacant = self._clock()
        have = f"others have {others or 'gone'}, this node has {self._layout}"
        text = "this node has other servers or shards than those that run"
        return BrokerUnavailable(text, details=have, retry_after=5.0)

    def _waited(self) -> bool:
        return self._vacant is not None and self._clock() - self._vacant >= self._ttl

    # ------------------------------------------------------------ others' ends

    async def _reap(self) -> float:
        """Clean up after the node whose lease ended first, if it has; return the seconds to the next look."""
        if self._first is None or self._steady is None:
            return self.every
        node, end = self._first
        # After Redis was away all leases are over, and everybody is about to renew: wait while they may.
        end = max(end, self._steady + self._ttl)
        left = end - self._clock()
        if left > 0:
            return min(self.every, left + random.random() * self._ttl / 100)
        try:
            await self._reaper.clean_up(node, willing=False)
        except GatewayError:
            self._contact.bell.set()
            return timeouts.RECONNECT
        return 0.0

    def __repr__(self) -> str:
        return f"<Lease {self.node or self._name} {'held' if self._clock() < self._until else 'not held'}>"
