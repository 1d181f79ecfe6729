"""Whether one connection may go on asking: its rate, and its patience with being told no."""

from __future__ import annotations

from gateway.access.ratelimit import CommandLimiter, Strikes
from gateway.clock import Clock
from gateway.errors import Rejection
from gateway.hub.services import SessionLimits
from protocol.errors import ErrorCode, ProtocolError


class TooMany(Exception):
    """It was told no often enough: close it with 4008."""


class Allowance:
    """The rate limit of one connection, and the strikes it has collected."""

    __slots__ = ("_clock", "_limiter", "_most", "_strikes")

    def __init__(self, limits: SessionLimits, clock: Clock) -> None:
        self._limiter = CommandLimiter(limits.commands_per_second, limits.command_burst, limits.costs)
        self._clock = clock
        self._most = limits.strikes
        self._strikes: Strikes | None = None

    def refusal(self, kind: str) -> ProtocolError | None:
        """Return None where a command of this *kind* may pass, else what to answer.

        Raises `TooMany` for the last refusal that a connection gets.
        """
        wait = self._limiter.admit(kind)
        if not wait:
            if self._strikes is not None:
                self._strikes.admitted()
            return None
        if self._strikes is None:
            self._strikes = Strikes(clock=self._clock, limit=self._most)
        if self._strikes.refused():
            raise TooMany
        return Rejection(ErrorCode.RATE_LIMITED, "too many commands", wait).error()
