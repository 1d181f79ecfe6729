"""The rate limit of the commands of one connection, and the count of its rejections in a row.

Why this is not aiolimiter, as for admission: docs/decisions/rate-limiter.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from gateway import defaults

ROUNDING_UNITS = 1e-6
"""Floating-point error that `take` forgives: a client that waits exactly as long as asked is admitted."""


class TokenBucket:
    """A token bucket that never waits: at most `burst + rate_per_s * t` units in any t seconds.

    All times are seconds of one monotonic clock.
    """

    __slots__ = ("_burst", "_rate_per_s", "_tokens", "_updated_at")

    def __init__(self, *, rate_per_s: float, burst: float, now: float) -> None:
        """Start full at *now*; `ValueError` if the rate or the burst is not above zero."""
        if rate_per_s <= 0 or burst <= 0:
            raise ValueError(f"rate {rate_per_s!r} per second, burst {burst!r}: expected both above zero")
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._updated_at = now

    def take(self, amount: float, now: float) -> float:
        """Take *amount* and return 0.0, or take nothing and return the seconds until there is as much.

        *amount* is at most the burst: the bucket never holds more.
        """
        tokens = min(self._burst, self._tokens + (now - self._updated_at) * self._rate_per_s)
        missing = amount - tokens
        self._updated_at = now
        if missing > ROUNDING_UNITS:
            self._tokens = tokens
            return missing / self._rate_per_s
        self._tokens = tokens - amount
        return 0.0


class CommandLimiter:
    """The rate limit of one connection's commands, each of which costs what its type costs.

    An idle connection has no bucket: the first command with a cost creates one, of 113 bytes.
    """

    __slots__ = ("_bucket", "_burst", "_costs", "_rate_per_s")

    def __init__(self, rate_per_s: float, burst: float, costs: Mapping[str, float]) -> None:
        """Admit *burst* units at once and *rate_per_s* on average; a type that *costs* leaves out costs 1.

        *costs* is shared, not copied. `ValueError` for a cost above the burst: no bucket could ever hold it.
        """
        if burst < max(costs.values(), default=1.0):
            raise ValueError(
                f"burst {burst!r} is less than the most expensive command costs: {dict(costs)!r}"
            )
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._costs = costs
        self._bucket: TokenBucket | None = None

    def __repr__(self) -> str:
        return f"<CommandLimiter {self._rate_per_s:g}/s burst={self._burst:g}>"

    def admit(self, command_type: str, now: float) -> float:
        """Return 0.0 if a command of *command_type* may pass at *now*, else the seconds until it may."""
        cost = self._costs.get(command_type, 1.0)
        if not cost:
            return 0.0
        bucket = self._bucket
        if bucket is None:
            bucket = TokenBucket(rate_per_s=self._rate_per_s, burst=self._burst, now=now)
            self._bucket = bucket
        return bucket.take(cost, now)


class RejectionCounter:
    """Counts rejections in a row, of which a connection has a limited number (close code 4008)."""

    __slots__ = ("_limit", "_times", "_window")

    def __init__(self, *, limit: int = defaults.STRIKES, window: float = 10.0) -> None:
        """Count to *limit* rejections in *window* seconds without an admitted command between them."""
        self._limit = limit
        self._window = window
        self._times: deque[float] | None = None

    def __repr__(self) -> str:
        return f"<RejectionCounter {len(self._times or ())}/{self._limit}>"

    def on_rejected(self, now: float) -> bool:
        """Count a rejection at *now*; return whether that reaches the limit: then close the connection."""
        times = self._times
        if times is None:
            times = self._times = deque(maxlen=self._limit)
        times.append(now)
        return len(times) == self._limit and now - times[0] <= self._window

    def on_admitted(self) -> None:
        """Start counting again from zero."""
        self._times = None
