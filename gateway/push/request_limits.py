"""How much backends may ask for at once: requests in progress together, and messages a second of each key.

docs/push-api.md#limits says what a backend gets beyond them.
"""

from __future__ import annotations

from gateway import defaults
from gateway.access.ratelimit import TokenBucket
from gateway.clock import Clock, monotonic
from gateway.errors import UNAVAILABLE_RETRY_SECONDS, Rejection
from gateway.push.requests import MAX_TARGETS
from protocol.errors import ErrorCode, ProtocolError


class RequestLimits:
    """The limits of one node's push API; the fast path and the routes share them."""

    __slots__ = (
        "_buckets",
        "_clock",
        "concurrency",
        "in_progress",
        "rate",
        "rejected_concurrency",
        "rejected_rate",
    )

    def __init__(
        self,
        *,
        concurrency: int = defaults.PUSH_CONCURRENCY,
        rate: float = defaults.PUSH_RATE,
        clock: Clock = monotonic,
    ) -> None:
        """Admit *concurrency* requests at once, and *rate* messages a second for each key; 0: any number."""
        self.concurrency = concurrency
        self.rate = rate
        self._clock = clock
        self._buckets: dict[int, TokenBucket] = {}
        """By the number of the key; a bucket holds a second's messages, and those of a whole batch."""
        self.in_progress = 0
        """Requests that wait for the broker, or for their bodies."""
        self.rejected_concurrency = self.rejected_rate = 0

    @property
    def full(self) -> bool:
        """Whether no further request may begin."""
        return self.in_progress >= self.concurrency

    def seconds_to_wait(self, key: int, messages: int) -> float:
        """Take *messages* from the rate of *key* and return 0.0, else the seconds until there are as many."""
        if not self.rate:
            return 0.0
        bucket = self._buckets.get(key)
        if bucket is None:
            burst = max(self.rate, float(MAX_TARGETS))
            bucket = self._buckets[key] = TokenBucket(rate_per_s=self.rate, burst=burst, now=self._clock())
        return bucket.take(messages, self._clock())

    def require_place(self) -> None:
        """Raise the error that answers a request while `full`."""
        if self.full:
            self.rejected_concurrency += 1
            raise _rate_limited(
                f"{self.in_progress} requests are in progress, as many as push.concurrency allows",
                UNAVAILABLE_RETRY_SECONDS,
            )

    def require_rate(self, key: int, messages: int) -> None:
        """Take *messages* from the rate of *key*; raise the error that answers a request beyond it."""
        wait = self.seconds_to_wait(key, messages)
        if wait:
            self.rejected_rate += 1
            raise _rate_limited(f"more messages than push.rate allows each key: {self.rate:g}/s", wait)

    def statistics(self) -> dict[str, int]:
        """Return how many requests are in progress, and how many were rejected."""
        return {
            "in_progress": self.in_progress,
            "rejected_concurrency": self.rejected_concurrency,
            "rejected_rate": self.rejected_rate,
        }

    def __repr__(self) -> str:
        return f"<RequestLimits {self.in_progress} of {self.concurrency} in progress>"


def _rate_limited(message: str, retry_after: float) -> ProtocolError:
    return Rejection(ErrorCode.RATE_LIMITED, message, retry_after).error()
