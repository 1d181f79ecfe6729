"""A node's lease on one shard: each incarnation acquires it under a new id and renews it."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple, Protocol

from gateway.broker.redis import timeouts
from gateway.broker.redis.connection.error_table import SlotMoving
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pipeline import Pipeline
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.membership.layout_check import LayoutCheck
from gateway.broker.redis.membership.reaper import Reaper
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import BUMP_EPOCH, RENEW_LEASE, milliseconds
from gateway.broker.uid import new_uid
from gateway.clock import Clock
from gateway.errors import BrokerUnavailable, GatewayError

TTL_SHARE = 0.9
"""Redis gets 90 % of the configured lease, so a dead node is reaped before the configured lease has
passed."""

RENEWAL_JITTER_SECONDS = 1.0
"""By how much the time between two renewals may differ between this node and Redis."""

MAX_PAST_INCARNATIONS = 100
"""Ids of incarnations that are remembered: older incarnations were reaped long ago."""


class LeaseStatus(IntEnum):
    """What the script `renew_lease` says about the lease, as it returns it."""

    HELD = 1
    REAPED = 0
    """Another node has reaped this incarnation."""
    UNKNOWN = -1
    """Redis does not know the lease: it has lost writes."""
    LAYOUT_REJECTED = -2
    """This node has other servers or shards than the running nodes."""


class RenewAnswer(NamedTuple):
    """The answer of the script `renew_lease`, unless it rejects the layout."""

    beat: int
    status: LeaseStatus
    epoch: bytes
    now: int
    """Redis' clock, in Unix milliseconds."""
    next_to_expire: bytes
    """The incarnation of another node whose lease ends first; empty if this node is alone."""
    expiry: int
    """When the lease of `next_to_expire` ends, in Unix milliseconds by Redis' clock."""
    beat_when_reaped: int
    """The beat that this incarnation had when it was reaped."""


class LeaseObserver(Protocol):
    """Notified of each change of the lease; an exception goes to `on_error` and the renewal is retried."""

    def incarnation_started(self, incarnation: str, *, lease_expired: bool) -> None:
        """Continue under another id; *lease_expired*: other nodes may have announced that members left."""

    def lease_renewed(self) -> None:
        """Retry the calls that failed: Redis answers again."""

    def writes_lost(self) -> None:
        """Report that Redis lost writes; called before the next incarnation starts."""


class Lease:
    """Holds this node's lease on one shard."""

    def __init__(  # noqa: PLR0913 (its collaborators, and what it writes to Redis)
        self,
        pipeline: Pipeline,
        keys: Keys,
        health: ShardHealth,
        reaper: Reaper,
        options: RedisOptions,
        layout_check: LayoutCheck,
        observer: LeaseObserver,
        *,
        name: str,
        layout: str,
        record: Callable[[], bytes],
        on_error: Callable[[BaseException], None],
        clock: Clock,
    ) -> None:
        """Create it without a lease; `run` acquires one.

        Args:
            pipeline: Calls Redis even while the shard counts as unavailable.
            keys: The keys of the shard.
            health: Notified whether the lease is held; `health.renewal_due` requests a renewal.
            reaper: Removes the routes, members and inboxes of nodes whose lease has expired.
            options: The lease's length and the interval of renewals.
            layout_check: Notified whether the running nodes have the same *layout*.
            observer: Notified of each incarnation and each renewal.
            name: The name of the node; the ids of its incarnations begin with it.
            layout: The servers and shards of this node, as text; Redis grants the lease only if every other
                node has the same layout.
            record: Returns the record of this node for other nodes (`Lookups.nodes`).
            on_error: Gets unexpected errors.
            clock: Never stepped, and counts the time while the machine is suspended.
        """
        self.incarnation = ""
        """The id of the present incarnation; empty before the first."""
        self.past_incarnations: deque[str] = deque(maxlen=MAX_PAST_INCARNATIONS)
        """Ids of this node, the present one included, which Redis may still know."""
        self.renewal_interval = options.renewal_interval
        """Seconds between two renewals, at most."""
        self.renewed_at_ms = 0
        """When the lease was last renewed, in Unix milliseconds by Redis' clock."""
        self.incarnations = self.resets = 0
        self._pipeline = pipeline
        self._keys = keys
        self._health = health
        self._reaper = reaper
        self._layout_check = layout_check
        self._observer = observer
        self._ttl = options.lease * TTL_SHARE
        self._clock_step_tolerance = milliseconds(options.clock_step_tolerance)
        self._name = name
        self._layout = layout
        self._record = record
        self._on_error = on_error
        self._clock = clock
        self._epoch = b""
        self._held_until = 0.0
        self._renewed_at: float | None = None
        """When the last successful renewal was sent."""
        self._renewing_since: float | None = None
        """Since when every renewal has succeeded, in time; None after a failed renewal."""
        self._next_to_expire: tuple[str, float] | None = None
        """The incarnation of another node whose lease ends first, and when it ends, by this node's clock."""
        self._layout_rejected = False
        """Whether Redis rejected this node's layout in the last renewal that it answered."""
        self._no_layout_since: float | None = None
        """When this node first saw that no running node has registered a layout, while Redis rejects this
        node's layout; else None."""
        self._held_event = asyncio.Event()

    # ------------------------------------------------------------ state

    @property
    def held(self) -> bool:
        """Whether the lease is certainly held now."""
        return self._clock() < self._held_until

    async def wait_until_held(self) -> None:
        """Return as soon as the lease is held."""
        while not self.held:
            self._held_event.clear()
            await self._held_event.wait()

    # ------------------------------------------------------------ renewing

    async def run(self) -> None:
        """Acquire and renew the lease until cancelled, and reap nodes whose lease has expired."""
        renewal_due = self._health.renewal_due
        while True:
            renewal_due.clear()
            try:
                delay = await self._renew_and_reap()
            except Exception as error:  # noqa: BLE001 (no error may end the renewals)
                self._on_error(error)
                delay = timeouts.RECONNECT_SECONDS
            await asyncio.sleep(timeouts.RENEWAL_MIN_INTERVAL_SECONDS)
            try:
                async with asyncio.timeout(delay):
                    await renewal_due.wait()
            except TimeoutError:
                continue

    async def release(self) -> None:
        """Give up the lease, and remove this node's routes, members and inbox."""
        self._held_until = 0.0
        if self.incarnation and self._health.connected:
            try:
                await self._reaper.reap(self.incarnation, even_if_alive=True)
            except GatewayError:
                return

    async def _renew_and_reap(self) -> float:
        """Acquire or renew the lease, reap expired nodes; return the seconds until the next renewal."""
        self._health.breaker.allow_call()  # if it is open, this renewal is the probe
        try:
            await self._renew_with_retry()
        except GatewayError as error:
            if not (isinstance(error, SlotMoving) and self.held):
                self._health.renewal_failed(error)
            self._renewing_since = None
            await asyncio.sleep(timeouts.jittered(timeouts.RECONNECT_SECONDS, random.random()))
            return timeouts.RECONNECT_SECONDS
        delay = await self._reap_expired()
        breaker = self._health.breaker
        if breaker.closed:
            return delay
        return min(delay, max(breaker.seconds_until_probe, timeouts.RENEWAL_MIN_INTERVAL_SECONDS))

    async def _renew_with_retry(self) -> None:
        """Renew; if that fails quickly while Redis counts as connected, retry once over a new connection."""
        began = self._clock()
        try:
            await self._renew()
        except GatewayError:
            took = self._clock() - began
            if not self._health.connected or took > timeouts.RENEWAL_RETRY_WINDOW_SECONDS:
                raise
            await self._renew()

    async def _renew(self) -> None:
        if not self.incarnation:
            await self._start_incarnation(lease_expired=False)
            return
        sent, health = self._clock(), self._health
        beat_before = 0 if health.beat_regressed else health.beat
        answer = await self._call_renew(self.incarnation)
        status = answer.status
        # After a reaping, the beat of this incarnation starts from 1 again although no write was lost. So the
        # beat at the time of the reaping is compared: it is lower if Redis lost writes before the reaping.
        writes_lost = (
            status is LeaseStatus.UNKNOWN
            or (status is LeaseStatus.HELD and health.beat_regressed)
            or (status is LeaseStatus.REAPED and answer.beat_when_reaped < beat_before)
        )
        if writes_lost:
            # Does nothing if another node has already changed the epoch.
            await self._pipeline.call(BUMP_EPOCH([self._keys.state], self._epoch, new_uid()))
            await self._start_incarnation(
                lease_expired=status is LeaseStatus.REAPED or sent >= self._held_until
            )
        elif status is LeaseStatus.REAPED or answer.epoch != self._epoch:
            await self._start_incarnation(lease_expired=status is LeaseStatus.REAPED)
        else:
            self._hold(sent, answer)
            self._observer.lease_renewed()

    async def _start_incarnation(self, *, lease_expired: bool) -> None:
        """Acquire a lease under a new id; *lease_expired* is passed on to the observer."""
        incarnation = f"{self._name}~{new_uid()}"
        sent = self._clock()
        # Remembered before the call: without an answer, Redis may have granted the lease all the same.
        self.past_incarnations.append(incarnation)
        answer = await self._call_renew(incarnation, take=True)
        self.incarnations += 1
        if self._epoch and self._epoch != answer.epoch:
            self.resets += 1
            self._observer.writes_lost()
        self.incarnation, self._epoch = incarnation, answer.epoch
        self._health.incarnation_started(incarnation, answer.beat)
        self._health.lease_held()
        self._observer.incarnation_started(incarnation, lease_expired=lease_expired)
        # Only now, because the observer has cancelled the readers that wait for the lease with stale entries.
        self._hold(sent, answer)

    def _hold(self, sent: float, answer: RenewAnswer) -> None:
        if sent >= self._held_until:
            # This process or machine did not run for longer than a lease, and perhaps no other node did.
            self._renewing_since = None
        self._held_until = sent + self._ttl
        self._renewed_at = sent
        self.renewed_at_ms = answer.now
        self._health.lease_held()
        self._held_event.set()
        if self._renewing_since is None:
            self._renewing_since = sent
        self._next_to_expire = None
        if answer.next_to_expire:
            seconds = (answer.expiry - answer.now) / 1000
            self._next_to_expire = (answer.next_to_expire.decode(), self._clock() + seconds)

    async def _call_renew(self, incarnation: str, *, take: bool = False) -> RenewAnswer:
        """Call the script `renew_lease`; raises `BrokerUnavailable` if the layout is rejected."""
        keys = self._keys
        command = RENEW_LEASE(
            [keys.state, keys.nodes, keys.node_records, keys.beats, keys.layout],
            incarnation,
            milliseconds(self._ttl),
            self._record(),
            new_uid(),
            int(take),
            self._layout,
            int(self._layout_rejected and not self._may_set_layout()),
            self._elapsed_tolerance(),
        )
        try:
            answer = await self._pipeline.call(command)
        except GatewayError:
            # Redis may have been unreachable for the other nodes as well, so the other nodes could not renew
            # their leases: restart the waiting time.
            self._no_layout_since = None
            raise
        if answer[1] == LeaseStatus.LAYOUT_REJECTED:
            error = self._layout_error(answer[2].decode())
            self._layout_check.reject(self, error)
            raise error
        self._layout_rejected, self._no_layout_since = False, None
        self._layout_check.accept(self)
        beat, status, *rest = answer
        return RenewAnswer(beat, LeaseStatus(status), *rest)

    def _elapsed_tolerance(self) -> int:
        """Return the milliseconds between two renewals beyond which Redis' clock counts as stepped."""
        if self._renewed_at is None:
            return self._clock_step_tolerance
        # If this node is the only one, its last renewal may be longer ago than usual.
        since_renewal = milliseconds(self._clock() - self._renewed_at + RENEWAL_JITTER_SECONDS)
        return max(self._clock_step_tolerance, since_renewal)

    # ------------------------------------------------------------ layouts

    def _layout_error(self, others: str) -> BrokerUnavailable:
        """Note that the running nodes have the layout *others*, empty if no node runs; return the error.

        After an outage longer than a lease, or after Redis lost all data, a node with another layout has to
        wait for one lease, so that the nodes that ran before can return first.
        """
        self._layout_rejected = True
        if others:
            self._no_layout_since = None
        elif self._no_layout_since is None:
            self._no_layout_since = self._clock()
        running = f"others have {others}" if others else "no other node runs"
        return BrokerUnavailable(
            "this node has other servers or shards than the running nodes",
            details=f"{running}, this node has {self._layout}",
            retry_after=5.0,
        )

    def _may_set_layout(self) -> bool:
        return self._no_layout_since is not None and self._clock() - self._no_layout_since >= self._ttl

    # ------------------------------------------------------------ reaping

    async def _reap_expired(self) -> float:
        """Reap the node whose lease ends first, if it has ended; return the seconds until the next check."""
        if self._next_to_expire is None or self._renewing_since is None:
            return self.renewal_interval
        incarnation, end = self._next_to_expire
        # After an outage all leases have expired, and every node is about to renew its own: wait for one TTL.
        end = max(end, self._renewing_since + self._ttl)
        left = end - self._clock()
        if left > 0:
            return min(self.renewal_interval, left + random.random() * self._ttl / 100)
        try:
            await self._reaper.reap(incarnation, even_if_alive=False)
        except GatewayError:
            self._health.renewal_due.set()
            return timeouts.RECONNECT_SECONDS
        return 0.0

    def __repr__(self) -> str:
        return f"<Lease {self.incarnation or self._name} {'held' if self.held else 'not held'}>"
