"""Is this node alive, is it ready, is its loop keeping up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.clock import Scheduler, Timer


def routes(problems: Callable[[], Sequence[str]]) -> list[BaseRoute]:
    """Return `/healthz`, 200 while the process answers, and `/readyz`, 503 while there are *problems*."""

    async def readyz(_: Request) -> Response:
        found = list(problems())
        return JSONResponse({"ready": not found, "problems": found}, 503 if found else 200)

    return [healthz(), Route("/readyz", readyz)]


def healthz() -> Route:
    """Return `/healthz` alone."""

    async def answer(_: Request) -> Response:
        return JSONResponse({"alive": True})

    return Route("/healthz", answer)


class LoopLag:
    """How late the event loop runs what is due: the figure behind "overloaded".

    Looks ten times a second; tells *on_change* True when 99 % of the last three seconds' looks... were late by more than
    the threshold at least once in a hundred, for three seconds on end (DESIGN section 6), and False when that is over.
    """

    PERIOD = 0.1
    WINDOW = 30

    def __init__(
        self,
        scheduler: Scheduler,
        on_change: Callable[[bool], None],
        *,
        threshold: float = 0.1,
        clock: Callable[[], float],
    ) -> None:
        self._scheduler = scheduler
        self._on_change = on_change
        self._threshold = threshold
        self._clock = clock
        self._lags: deque[float] = deque(maxlen=self.WINDOW)
        self._timer: Timer | None = None
        self._expected = 0.0
        self._late_since: float | None = None
        self._overloaded = False

    def start(self) -> None:
        """Begin to look."""
        self._expected = self._clock() + self.PERIOD
        self._timer = self._scheduler.call_later(self.PERIOD, self._look)

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()

    @property
    def p99(self) -> float:
        """Seconds, over the last three."""
        return sorted(self._lags)[-max(1, len(self._lags) // 100)] if self._lags else 0.0

    def _look(self) -> None:
        now = self._clock()
        self._lags.append(max(0.0, now - self._expected))
        self._judge(now)
        self._expected = now + self.PERIOD
        self._timer = self._scheduler.call_later(self.PERIOD, self._look)

    def _judge(self, now: float) -> None:
        if self._lags[-1] <= self._threshold and self.p99 <= self._threshold:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now
        overloaded = self._late_since is not None and now - self._late_since >= 3.0
        if overloaded != self._overloaded:
            self._overloaded = overloaded
            self._on_change(overloaded)
