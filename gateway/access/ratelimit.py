"""How fast one connection may send commands, and when it has been told no often enough."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from aiolimiter import AsyncLimiter

ROUNDING = 1e-6
"""What floats may be off by, in units: who waits exactly as long as it was told is admitted."""


class TokenBucket(AsyncLimiter):
    """A bucket that answers at once: *burst* units in a row, and *rate_per_s* on average.

    aiolimiter admits `max_rate` at once and leaks `max_rate / time_period` a second: AsyncLimiter(5, 1) lets
    9 through in its first second. Here both numbers mean what they say: at most `burst + rate_per_s * t`
    units in any t seconds. Nothing ever waits in it; the time is that of the running loop.
    """

    __slots__ = ()

    def __init__(self, *, rate_per_s: float, burst: float) -> None:
        if rate_per_s <= 0 or burst <= 0:
            raise ValueError(f"rate {rate_per_s!r} per second, burst {burst!r}: expected both above zero")
        super().__init__(burst, burst / rate_per_s)

    def take(self, amount: float) -> float:
        """Take *amount* and return 0.0, or leave everything and return the seconds until there is as much.

        *amount* is at most the burst: there is never more.
        """
        self._leak()
        missing = self._level + amount - self.max_rate
        if missing > ROUNDING:
            return missing / self._rate_per_sec
        self._level += amount
        return 0.0


class CommandLimiter:
    """The rate of one connection's commands, each of which costs what its kind does.

    An idle connection has no bucket: one is made by its first command that costs anything.
    """

    __slots__ = ("_bucket", "_burst", "_costs", "_rate_per_s")

    def __init__(self, rate_per_s: float, burst: float, costs: Mapping[str, float]) -> None:
        """Admit *burst* units at once and *rate_per_s* on average; a kind that *costs* leaves out costs 1.

        *costs* is shared, not copied. `ValueError` for a cost above the burst, which nothing could ever pay.
        """
        if burst < max(costs.values(), default=1.0):
            raise ValueError(f"burst {burst!r} is less than the dearest command costs: {dict(costs)!r}")
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._costs = costs
        self._bucket: TokenBucket | None = None

    def __repr__(self) -> str:
        return f"<CommandLimiter {self._rate_per_s:g}/s burst={self._burst:g}>"

    def admit(self, kind: str) -> float:
        """Return 0.0 where a command of this *kind* may pass, else the seconds until it may; never waits."""
        cost = self._costs.get(kind, 1.0)
        if not cost:
            return 0.0
        bucket = self._bucket
        if bucket is None:
            bucket = self._bucket = TokenBucket(rate_per_s=self._rate_per_s, burst=self._burst)
        return bucket.take(cost)


class Strikes:
    """Refusals in a row: a client that goes on against them is no client (close code 4008)."""

    __slots__ = ("_clock", "_limit", "_times", "_window")

    def __init__(self, *, clock: Callable[[], float], limit: int = 20, window: float = 10.0) -> None:
        """Count to *limit* refusals in *window* seconds of the monotonic *clock*, none admitted between."""
        self._clock = clock
        self._limit = limit
        self._window = window
        self._times: deque[float] | None = None

    def __repr__(self) -> str:
        return f"<Strikes {len(self._times or ())}/{self._limit}>"

    def refused(self) -> bool:
        """Count one refusal; return whether it was one too many, so that the connection is to be closed."""
        times = self._times
        if times is None:
            times = self._times = deque(maxlen=self._limit)
        now = self._clock()
        times.append(now)
        return len(times) == self._limit and now - times[0] <= self._window

    def admitted(self) -> None:
        """Forget the refusals so far."""
        self._times = None
