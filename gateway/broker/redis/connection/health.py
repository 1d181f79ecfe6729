"""Whether a shard can be asked: what its connections, its lease and its breaker know of it together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.error_table import Action, BreakerOutcome, ErrorRule
from gateway.broker.redis.membership.layout_check import LayoutCheck
from gateway.errors import BrokerUnavailable, GatewayError


class ShardHealth:
    """The health of one shard, and the bell that wakes up its lease."""

    def __init__(
        self,
        breaker: Breaker,
        doubt: Callable[[], None],
        told: Callable[[str | None], None] = lambda _: None,
        forgot: Callable[[], None] = lambda: None,
        odd: Callable[[str], None] = lambda _: None,
        membership: LayoutCheck | None = None,
    ) -> None:
        """Begin out of contact; `lease` establishes it.

        Call *doubt* where the primary does not seem to be one any more, *told* with why contact was lost,
        again where that changes, and with None when it is back, *forgot* where Redis has lost writes, and
        *odd* with what Redis refuses though it works, once for each kind of that. Nothing is asked where the
        *membership* of this node, which its shards share, is disputed.
        """
        self.breaker = breaker
        self.doubt = doubt
        self._tell = told
        self.forgot = forgot
        self._odd = odd
        self._puzzles: set[str] = set()
        """The kinds of refusals that *odd* has heard of."""
        self._membership = membership or LayoutCheck()
        self._told: set[str] = set()
        """Of what kinds the reasons were that this loss of contact has had."""
        self._deaf = False
        self.up = False
        """Whether this node holds a lease and Redis answered when it was last asked."""
        self.why = "not connected to Redis yet"
        self.node = ""
        """The present incarnation of this node."""
        self.beat = 0
        """How much this incarnation has written, as Redis told; less later means that Redis lost writes."""
        self.regressed = False
        """Whether it has told a lower one since."""
        self.era = 0
        """How often counting began anew."""
        self.breaks = 0
        """How often a connection failed: the others, idle since, are likely to be dead as well."""
        self.bell = asyncio.Event()
        """Set where the lease should look at once."""

    def check(self) -> None:
        """Raise `BrokerUnavailable` where asking is no use."""
        if not self.up:
            raise BrokerUnavailable(self.why)
        if (fault := self._membership.fault) is not None:
            raise BrokerUnavailable(str(fault), retry_after=fault.retry_after)
        if not self.breaker.admit():
            raise BrokerUnavailable("Redis does not answer", retry_after=max(0.1, self.breaker.waits))

    @property
    def serving(self) -> bool:
        """Whether calls are let through."""
        return self.up and self.breaker.closed and self._membership.fault is None

    def answered(self, calls: int) -> None:
        """Hear that *calls* were answered."""
        self.breaker.succeeded(calls)

    def failed(self, fault: ErrorRule, calls: int = 1) -> None:
        """Hear that *calls* failed by *fault*."""
        if fault.counts is BreakerOutcome.ANSWER:
            self.breaker.succeeded(calls)
        else:
            self.breaker.failed(calls, timeout=fault.counts is BreakerOutcome.TIMEOUT)
        self.breaks += fault.then is Action.RECONNECT
        if fault.then in (Action.RECONNECT, Action.FOLLOW):
            self.doubt()
        refused = fault.then is Action.REFUSE and fault.counts is BreakerOutcome.FAILURE
        if refused or fault.then in (Action.RECONNECT, Action.FENCE):
            self.bell.set()

    def puzzled(self, error: GatewayError) -> None:
        """Hear of a call that Redis refuses for what it is or who asks, not for how Redis is."""
        if error.kind not in self._puzzles:
            self._puzzles.add(error.kind)
            self._odd(str(error))

    def counted(self, beat: int, expected: int) -> None:
        """Hear that Redis counts *beat* with a call, where it had told of *expected* before."""
        if beat <= expected:
            self.regressed = True
            self.bell.set()
        self.beat = max(self.beat, beat)

    def begin(self, node: str, beat: int) -> None:
        """Count anew, for another incarnation, which has written *beat* times so far."""
        self.era += 1
        self.node = node
        self.beat = beat
        self.regressed = False

    def deaf(self, why: GatewayError) -> None:
        """Hear that the inbox cannot be read: who hears nothing is out of contact, lease or not."""
        self._deaf = True
        self.lost(BrokerUnavailable(f"the inbox cannot be read: {why.kind}", details=why.details))

    def heard(self) -> None:
        """Hear that the inbox is read again."""
        if self._deaf:
            self._deaf = False
            self.bell.set()

    def established(self) -> None:
        """Hear that this node holds a lease."""
        if not (self.up or self._deaf):
            self.up = True
            self.breaker.reset()
            if self._told:
                self._told.clear()
                self._tell(None)

    def refused(self, error: BrokerUnavailable) -> None:
        """Hear that those who run are no peers of this node."""
        self._membership.refused(self, error)

    def admitted(self) -> None:
        """Hear that they are."""
        self._membership.admitted(self)

    def lost(self, error: GatewayError) -> None:
        """Hear that the lease cannot be renewed now."""
        self.up = False
        self.why = str(error)
        if error.kind not in self._told:
            self._told.add(error.kind)
            self._tell(self.why)

    def close(self) -> None:
        """End contact for good, which is no news to anybody."""
        self.up = False
        self.why = "the broker is closed"

    def __repr__(self) -> str:
        return f"<Contact {'up' if self.up else self.why} {self.breaker}>"
