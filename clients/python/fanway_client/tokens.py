"""The token of the connection: fetched once at a time, and known to expire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from fanway_client.environment import Environment, Tasks, answer_of

TokenReason = Literal["connect", "expired", "expiring", "unauthorized"]
"""`connect`: there is none yet; `expired`: the present one has expired, or is about to; `expiring`: the
connection goes on with another one; `unauthorized`: the gateway refused the present one."""

GetToken = Callable[[TokenReason], str | Awaitable[str]]
"""Returns a connection token; raises `UnauthorizedError` to stop the client."""

MARGIN_SECONDS = 5.0
"""A token that expires sooner than this is not used for a new connection."""

OnToken = Callable[[str], None]
OnError = Callable[[Exception], None]


class TokenSource:
    """Where the client's token comes from."""

    def __init__(self, environment: Environment, calls: Tasks, get_token: GetToken | None) -> None:
        self._environment = environment
        self._calls = calls
        self._get_token = get_token
        self._expires_at = float("inf")
        self._waiting: list[tuple[OnToken, OnError]] = []
        self.current: str | None = None
        """The present token; None before the first one."""

    @property
    def can_fetch(self) -> bool:
        """Whether another token can be had."""
        return self._get_token is not None

    @property
    def expired(self) -> bool:
        """Whether the present token has expired by the clock; timers do not run while a machine sleeps."""
        return self._environment.now() >= self._expires_at

    def needed(self) -> TokenReason | None:
        """Return the reason to fetch a token before a new connection, or None if the present one will do."""
        if self._get_token is None:
            return None
        if self.current is None:
            return "connect"
        return "expired" if self._expires_at - self._environment.now() < MARGIN_SECONDS else None

    def set(self, token: str | None) -> None:
        """Use *token* from now on."""
        self.current = token
        self._expires_at = float("inf")

    def expires_in(self, seconds: float | None) -> None:
        """Note how long the gateway says the present token lasts."""
        self._expires_at = float("inf") if seconds is None else self._environment.now() + seconds

    def fetch(self, reason: TokenReason, on_token: OnToken, on_error: OnError) -> None:
        """Fetch a token; calls at the same time share one call of `get_token`."""
        self._waiting.append((on_token, on_error))
        if len(self._waiting) == 1:
            self._calls.spawn(self._fetch(reason))

    def stop(self) -> None:
        """Forget who waits: the client has stopped, and the call of `get_token` is cancelled."""
        self._waiting = []

    async def _fetch(self, reason: TokenReason) -> None:
        if self._get_token is None:
            return
        try:
            token = await answer_of(self._get_token(reason), "get_token")
        except Exception as error:  # noqa: BLE001 (whatever the application raises)
            waiting, self._waiting = self._waiting, []
            for _, on_error in waiting:
                on_error(error)
            return
        self.set(token)
        waiting, self._waiting = self._waiting, []
        for on_token, _ in waiting:
            on_token(token)
