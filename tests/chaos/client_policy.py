"""How a client behaves: how long it waits, and what it does when a connection ends (PROTOCOL section 2)."""

from dataclasses import dataclass
from enum import Enum, auto
from random import Random

from tests.e2e.wire import PATIENCE


class Reaction(Enum):
    """What a client does after the end of a connection."""

    RESUME = auto()
    """Reconnect with backoff and resume."""
    AS_TOLD = auto()
    """Resume after the delay of the last `reconnect`."""
    LATER = auto()
    """Resume after a long delay."""
    STOP = auto()


REACTIONS = {
    1009: Reaction.STOP,
    4000: Reaction.AS_TOLD,
    4001: Reaction.RESUME,
    4002: Reaction.STOP,
    4003: Reaction.STOP,
    4004: Reaction.RESUME,
    4005: Reaction.STOP,
    4006: Reaction.RESUME,
    4007: Reaction.RESUME,
    4008: Reaction.LATER,
    4010: Reaction.LATER,
    4011: Reaction.RESUME,
    4012: Reaction.STOP,
    4013: Reaction.RESUME,
}
"""By close code; after any other a client resumes."""

RETRY = ("unavailable", "rate_limited")
"""Errors after which the same may succeed."""

MOST_DOUBLINGS = 32


@dataclass(frozen=True, slots=True)
class Habits:
    """Times in seconds."""

    first: float = 0.5
    """The bound of the first delay before a reconnect; it doubles with each failure in a row ..."""
    longest: float = 30.0
    """... to this, where the long delay begins."""
    silence: float | None = None
    """How long it hears nothing before it sends a `ping`; None: what `connected` says as `heartbeat`."""
    answer: float = PATIENCE
    """How long a handshake or an answer may take before the connection counts as dead."""

    def delay(self, reaction: Reaction, failures: int, random: Random) -> float:
        """Return how long to wait after so many failures in a row: full jitter."""
        doublings = MOST_DOUBLINGS if reaction is Reaction.LATER else min(failures, MOST_DOUBLINGS)
        return random.uniform(0.0, min(self.longest, self.first * 2.0**doublings))


DEFAULT = Habits()


class Stopped(Exception):
    """A client was told something after which it does not come back: it or the gateway is wrong."""
