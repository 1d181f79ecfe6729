"""Whether a shard can be called now, which depends on its lease, inbox, breaker and layout check."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.broker.notices import CallRejected, OnNotice, RedisLost, RedisRestored
from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.error_table import (
    REPLACES_CONNECTION,
    BreakerOutcome,
    ErrorAction,
    ErrorRule,
)
from gateway.errors import BrokerUnavailable, GatewayError


class ShardHealth:
    """The health of one shard; sets `renewal_due` after a failure that requires a renewal of the lease."""

    def __init__(
        self,
        breaker: Breaker,
        *,
        invalidate_primary: Callable[[], None],
        layout_error: Callable[[], BrokerUnavailable | None] = lambda: None,
        on_notice: OnNotice = lambda _: None,
    ) -> None:
        """Create it disconnected; `lease_held` connects it.

        Args:
            breaker: Counts the outcome of every call.
            invalidate_primary: Called when the server seems to be no longer the primary.
            layout_error: Returns the error for callers if Redis rejects the layout of this node.
            on_notice: Gets `RedisLost`, once per loss and kind of reason; `RedisRestored`; and
                `CallRejected`, once per kind of reason.
        """
        self.breaker = breaker
        self._invalidate_primary = invalidate_primary
        self._layout_error = layout_error
        self._on_notice = on_notice
        self._rejection_kinds: set[str] = set()
        """Kinds of errors for which `CallRejected` was given."""
        self._loss_kinds: set[str] = set()
        """Kinds of errors for which `RedisLost` was given during the present loss."""
        self._inbox_unreadable = False
        self.connected = False
        """Whether this node holds a lease, reads its inbox, and Redis answered the last renewal."""
        self.disconnected_reason = "not connected to Redis yet"
        self.incarnation = ""
        """The id of this node's present incarnation on this shard."""
        self.incarnations = 0
        """How many incarnations have started."""
        self.beat = 0
        """Writes of this incarnation, as counted by Redis; a lower count later means lost writes."""
        self.beat_regressed = False
        """Whether Redis has returned a lower `beat` since this incarnation started."""
        self.connection_failures = 0
        """How often a connection failed: other connections, if idle since, are probably dead as well."""
        self.renewal_due = asyncio.Event()
        """Set when the lease should be renewed at once."""

    def require_available(self) -> None:
        """Raise `BrokerUnavailable` if a call cannot succeed now."""
        if not self.connected:
            raise BrokerUnavailable(self.disconnected_reason)
        if (error := self._layout_error()) is not None:
            raise BrokerUnavailable(str(error), retry_after=error.retry_after)
        if not self.breaker.allow_call():
            raise BrokerUnavailable(
                "Redis does not answer", retry_after=max(0.1, self.breaker.seconds_until_probe)
            )

    @property
    def available(self) -> bool:
        """Whether calls are allowed."""
        return self.connected and self.breaker.closed and self._layout_error() is None

    # ------------------------------------------------------------ outcomes of calls

    def record_success(self, calls: int) -> None:
        """Count *calls* that were answered."""
        self.breaker.record_success(calls)

    def record_failure(self, rule: ErrorRule, calls: int = 1) -> None:
        """Count *calls* that failed, and apply *rule*."""
        if rule.outcome is BreakerOutcome.ANSWERED:
            self.breaker.record_success(calls)
        else:
            self.breaker.record_failure(calls, timeout=rule.outcome is BreakerOutcome.TIMEOUT)
        replaces_connection = rule.action in REPLACES_CONNECTION
        self.connection_failures += replaces_connection
        if replaces_connection or rule.action is ErrorAction.FIND_PRIMARY:
            self._invalidate_primary()
        server_refuses = rule.action is ErrorAction.REJECT and rule.outcome is BreakerOutcome.FAILURE
        if server_refuses or replaces_connection or rule.action is ErrorAction.FENCE:
            self.renewal_due.set()

    def call_rejected(self, error: GatewayError) -> None:
        """Report a call that Redis rejects because of its content or its user, while other calls succeed."""
        if error.kind not in self._rejection_kinds:
            self._rejection_kinds.add(error.kind)
            self._on_notice(CallRejected(str(error)))

    def beat_received(self, beat: int, *, previous: int) -> None:
        """Compare the *beat* in an answer with the *previous* beat, known before the call was sent."""
        if beat <= previous:
            self.beat_regressed = True
            self.renewal_due.set()
        self.beat = max(self.beat, beat)

    # ------------------------------------------------------------ lease and inbox

    def incarnation_started(self, incarnation: str, beat: int) -> None:
        """Start counting for a new *incarnation*, which has written *beat* times so far."""
        self.incarnations += 1
        self.incarnation = incarnation
        self.beat = beat
        self.beat_regressed = False

    def lease_held(self) -> None:
        """Note that the lease was acquired or renewed: connect, unless the inbox is unreadable."""
        if not (self.connected or self._inbox_unreadable):
            self.connected = True
            self.breaker.reset()
            if self._loss_kinds:
                self._loss_kinds.clear()
                self._on_notice(RedisRestored())

    def renewal_failed(self, error: GatewayError) -> None:
        """Disconnect: the lease cannot be renewed now."""
        self._disconnect(error)

    def inbox_unreadable(self, error: GatewayError) -> None:
        """Disconnect: a node that cannot read its inbox misses all messages, even if it holds its lease."""
        self._inbox_unreadable = True
        self._disconnect(BrokerUnavailable(f"the inbox cannot be read: {error.kind}", details=error.details))

    def inbox_readable(self) -> None:
        """If the inbox was unreadable before, request a renewal of the lease, which connects again."""
        if self._inbox_unreadable:
            self._inbox_unreadable = False
            self.renewal_due.set()

    def close(self) -> None:
        """Disconnect for good, without a notice."""
        self.connected = False
        self.disconnected_reason = "the broker is closed"

    def _disconnect(self, error: GatewayError) -> None:
        self.connected = False
        self.disconnected_reason = str(error)
        if error.kind not in self._loss_kinds:
            self._loss_kinds.add(error.kind)
            self._on_notice(RedisLost(self.disconnected_reason))

    def __repr__(self) -> str:
        return f"<ShardHealth {'connected' if self.connected else self.disconnected_reason} {self.breaker}>"
