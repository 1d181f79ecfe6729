"""The rate limits of commands: of each connection, of each user, and of each address.

Why this is not aiolimiter, as for admission: docs/decisions/rate-limiter.md.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from gateway import defaults
from gateway.access.client_address import source_of

ROUNDING_UNITS = 1e-6
"""Floating-point error that `take` forgives: a client that waits exactly as long as asked is admitted."""

REJECTED_UNITS = 1.0
"""What a connection pays for a command that the rate of its user or address rejects: about what it costs."""

MAX_IDLE_BUCKETS = 20_000
"""Buckets of users, and of addresses, that are kept without a connection until they are full again: 6 MB."""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `burst` units at once, and `per_second` on average."""

    per_second: float
    burst: float


class TokenBucket:
    """A token bucket that never waits: at most `burst + rate_per_s * t` units in any t seconds.

    Exceptions are an amount above the burst, and what is charged afterwards: these make the bucket negative,
    so that later amounts wait for longer. All times are seconds of one monotonic clock.
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
        """Take *amount* and return 0.0, or take nothing and return the seconds until it can be taken.

        An amount above the burst is taken from a full bucket.
        """
        tokens = min(self._burst, self._tokens + (now - self._updated_at) * self._rate_per_s)
        missing = (min(self._burst, amount)) - tokens
        self._updated_at = now
        if missing > ROUNDING_UNITS:
            self._tokens = tokens
            return missing / self._rate_per_s
        self._tokens = tokens - amount
        return 0.0

    def charge(self, amount: float, now: float) -> None:
        """Take *amount* even if the bucket does not have as much; a negative one is given back."""
        tokens = min(self._burst, self._tokens + (now - self._updated_at) * self._rate_per_s)
        self._updated_at = now
        self._tokens = tokens - amount

    def is_full(self, now: float) -> bool:
        """Return whether the bucket holds its burst at *now*, as a new one does."""
        return self._tokens + (now - self._updated_at) * self._rate_per_s >= self._burst


class SharedBucket(TokenBucket):
    """The bucket of a user or of an address, for all of its connections."""

    __slots__ = ("connections", "name")

    def __init__(self, name: str, rate: Rate, now: float) -> None:
        super().__init__(rate_per_s=rate.per_second, burst=rate.burst, now=now)
        self.name = name
        self.connections = 0
        """Connections that use it."""


class SharedBuckets:
    """The buckets of all users, or of all addresses, on one node.

    A bucket exists while a connection uses it, and without one until it is full again, so that closing the
    connection gains nothing. At most `MAX_IDLE_BUCKETS` are kept without a connection: beyond that, the
    bucket that was left first is dropped.
    """

    __slots__ = ("_idle", "_max_idle", "_rate", "_used", "evicted", "rejected")

    def __init__(self, rate: Rate | None, *, max_idle: int = MAX_IDLE_BUCKETS) -> None:
        """Create no bucket yet; with None for *rate*, no limit applies."""
        self._rate = rate
        self._max_idle = max_idle
        self._used: dict[str, SharedBucket] = {}
        self._idle: OrderedDict[str, SharedBucket] = OrderedDict()
        """Buckets without a connection; the one that was left first comes first."""
        self.evicted = self.rejected = 0
        """Buckets that were dropped before they were full; commands that were rejected."""

    def acquire(self, name: str, now: float) -> SharedBucket | None:
        """Return the bucket of *name*, for one more connection; None if there is no limit, or no name."""
        if self._rate is None or not name:
            return None
        bucket = self._used.get(name)
        if bucket is None:
            bucket = self._idle.pop(name, None) or SharedBucket(name, self._rate, now)
            self._used[name] = bucket
        bucket.connections += 1
        return bucket

    def release(self, bucket: SharedBucket, now: float) -> None:
        """Undo one `acquire`."""
        bucket.connections -= 1
        if not bucket.connections:
            del self._used[bucket.name]
            self._idle[bucket.name] = bucket
            self._drop_idle(now)

    @property
    def in_use(self) -> int:
        """How many buckets are used by a connection."""
        return len(self._used)

    def __len__(self) -> int:
        return len(self._used) + len(self._idle)

    def _drop_idle(self, now: float) -> None:
        """Drop two buckets at most that are full again, so that fewer stay than come, or one too many."""
        idle = self._idle
        for _ in range(2):
            if idle and next(iter(idle.values())).is_full(now):
                idle.popitem(last=False)
        if len(idle) > self._max_idle:
            idle.popitem(last=False)
            self.evicted += 1

    def __repr__(self) -> str:
        return f"<SharedBuckets {len(self._used)} in use, {len(self._idle)} idle>"


class CommandRates:
    """The rates of commands on one node; creates the limiter of each connection.

    Several nodes, or workers, count each on its own.
    """

    __slots__ = ("addresses", "connection", "users")

    def __init__(self, connection: Rate, *, user: Rate | None = None, address: Rate | None = None) -> None:
        """Limit each connection, all connections of a user together, and those of an address; None: no limit.

        `ValueError` for a rate of connections that no bucket can have.
        """
        TokenBucket(rate_per_s=connection.per_second, burst=connection.burst, now=0.0)
        self.connection = connection
        self.users = SharedBuckets(user)
        self.addresses = SharedBuckets(address)

    def statistics(self) -> dict[str, int]:
        """Return how many buckets there are, were dropped early, and how many commands they rejected."""
        return {
            "users": len(self.users),
            "addresses": len(self.addresses),
            "evicted": self.users.evicted + self.addresses.evicted,
            "refused_user": self.users.rejected,
            "refused_address": self.addresses.rejected,
        }

    def __repr__(self) -> str:
        return f"<CommandRates {self.connection} {self.users} {self.addresses}>"


class CommandLimiter:
    """The rate limits that one connection's commands are subject to.

    An idle connection has no bucket: the first command with a cost creates one, of 113 bytes. Anonymous
    connections have no bucket of a user.
    """

    __slots__ = ("_address", "_address_name", "_bucket", "_rates", "_user")

    def __init__(self, rates: CommandRates, address: str = "") -> None:
        """Limit a connection from *address*, of which an IPv6 address counts as its /64."""
        self._rates = rates
        self._address_name = address
        self._bucket: TokenBucket | None = None
        self._user: SharedBucket | None = None
        self._address: SharedBucket | None = None

    def admit(self, cost: float, now: float) -> float:
        """Take *cost* from the connection's own bucket: return 0.0, or the seconds until there is as much."""
        return self._own_bucket(now).take(cost, now) if cost else 0.0

    def admit_shared(self, cost: float, now: float) -> float:
        """Take *cost*, which `admit` has admitted, from the buckets of the user and of the address.

        Return 0.0, or the seconds until there is as much. Then the connection gets back what it has paid
        except `REJECTED_UNITS`: so a connection that sends on without pause is rejected by `admit` in the
        end.
        """
        address, user, wait = self._address, self._user, 0.0
        if address is not None and (wait := address.take(cost, now)):
            self._rates.addresses.rejected += 1
        elif user is not None and (wait := user.take(cost, now)):
            self._rates.users.rejected += 1
            if address is not None:
                address.charge(-cost, now)
        if wait:
            self._own_bucket(now).charge(min(0.0, REJECTED_UNITS - cost), now)
        return wait

    def identify(self, user: str, cost: float, now: float) -> float:
        """Take *cost*, which the connection has paid, from the bucket of *user*, whose connection it is.

        Return 0.0, or the seconds until there is as much: then the connection is not counted as the user's.
        """
        users = self._rates.users
        bucket = users.acquire(user, now)
        if bucket is None:
            return 0.0
        if wait := bucket.take(cost, now):
            users.rejected += 1
            users.release(bucket, now)
            return wait
        self._user = bucket
        return 0.0

    def charge(self, cost: float, now: float) -> None:
        """Take *cost* from all buckets, for work that was not known before: later commands wait for it."""
        if cost:
            self._own_bucket(now).charge(cost, now)
            for shared in (self._user, self._address):
                if shared is not None:
                    shared.charge(cost, now)

    def release(self, now: float) -> None:
        """Give up the shared buckets, once: the connection has ended.

        A command that still runs may be charged to them all the same.
        """
        self._address_name = ""  # no bucket is acquired from now on
        if self._user is not None:
            self._rates.users.release(self._user, now)
        if self._address is not None:
            self._rates.addresses.release(self._address, now)

    def _own_bucket(self, now: float) -> TokenBucket:
        bucket = self._bucket
        if bucket is None:
            rates, rate = self._rates, self._rates.connection
            bucket = self._bucket = TokenBucket(rate_per_s=rate.per_second, burst=rate.burst, now=now)
            self._address = rates.addresses.acquire(source_of(self._address_name), now)
        return bucket

    def __repr__(self) -> str:
        rate = self._rates.connection
        return f"<CommandLimiter {rate.per_second:g}/s burst={rate.burst:g}>"


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
