"""Rejected origins, hosts, tokens, keys and connections in the log: why, what to do; never a token or key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.clock import Clock, monotonic
from protocol.errors import ErrorCode, ProtocolError

LINES_PER_INTERVAL = 5
INTERVAL_SECONDS = 60.0
"""For each kind of rejection, so that nobody can fill a disk or hide other lines."""

TOKEN_REMEDIES: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.UNAUTHORIZED: "compare [auth] in the configuration with what signs the tokens",
    ErrorCode.TOKEN_EXPIRED: "nothing, if the client then fetches a new one",
}


CONNECTION_REMEDIES: Final[Mapping[str, str]] = {
    "total": "raise `ulimit -n` if these are not strangers (docs/operations.md#file-descriptors)",
    "unconnected": "raise listen.public.unconnected if these are not strangers",
    "address": "raise listen.public.unconnected_per_address, or list it in trusted_proxies if it is a proxy",
}
"""What to do where a bound of open connections is reached."""


class RefusalLog:
    """Logs rejections by kind: a few lines per interval, and in the next line how many were left out."""

    def __init__(self, log: Any, clock: Clock = monotonic) -> None:
        """Write to *log*, a structlog logger."""
        self._log = log
        self._clock = clock
        self._budgets: dict[tuple[str, str], _LineBudget] = {}

    def on_origin_refused(self, origin: str, host: str | None, address: str) -> None:
        """Log that a page of *origin* may not connect to *host*, the value of the Host header."""
        self._write(
            "origin refused",
            origin=origin,
            host=host,
            address=address,
            remedy="add it to listen.public.allowed_origins if this page may connect",
        )

    def on_token_refused(self, error: ProtocolError) -> None:
        """Log why a token is rejected; one that has expired is no fault, and has a budget of its own."""
        self._write(
            "token refused",
            kind=error.code,
            level="info" if error.code is ErrorCode.TOKEN_EXPIRED else "warning",
            reason=error.message,
            remedy=TOKEN_REMEDIES.get(error.code, ""),
        )

    def on_host_refused(self, host: str, address: str) -> None:
        """Log that a request from *address* to the push API names another *host* than this machine."""
        self._write(
            "host refused",
            host=host,
            address=address,
            remedy="use localhost, or start without --dev",
        )

    def on_push_key_refused(self, address: str) -> None:
        """Log that a request from *address* to the push API had no valid key."""
        self._write(
            "push key refused",
            address=address,
            remedy="send one of push.keys as Authorization: Bearer",
        )

    def on_proxy_header_refused(self, address: str, reason: str) -> None:
        """Log why a header of the PROXY protocol from *address* is refused, or that one is missing."""
        self._write(
            "proxy header refused",
            kind=reason,
            address=address,
            reason=reason,
            remedy="compare listen.public.proxy_protocol and trusted_proxies with what the proxy sends",
        )

    def on_connections_exhausted(self, listener: str, bound: str, address: str, open_now: int) -> None:
        """Log that a *bound* of the connections of *listener* is reached by a new one from *address*.

        *open_now* is the number of its open connections.
        """
        self._write(
            "connections exhausted",
            kind=f"{listener} {bound}",
            listener=listener,
            bound=bound,
            address=address,
            open=open_now,
            remedy=CONNECTION_REMEDIES[bound],
        )

    def on_descriptors_exhausted(self, listener: str, error: OSError) -> None:
        """Log that *listener* cannot accept connections because of *error*."""
        self._write(
            "cannot accept connections",
            kind=listener,
            listener=listener,
            reason=error.strerror,
            remedy="raise `ulimit -n` (docs/operations.md#file-descriptors)",
        )

    def _write(self, event: str, *, kind: str = "", level: str = "warning", **fields: Any) -> None:
        budget = self._budgets.setdefault((event, kind), _LineBudget())
        if not budget.take(self._clock()):
            return
        if budget.left_out:
            fields["left_out"] = budget.left_out
            budget.left_out = 0
        getattr(self._log, level)(event, **fields)


class _LineBudget:
    """How many lines of one kind may still be written in this interval."""

    __slots__ = ("_ends_at", "_lines_left", "left_out")

    def __init__(self) -> None:
        self._ends_at = 0.0
        self._lines_left = 0
        self.left_out = 0
        """Refusals since the last line that were not logged."""

    def take(self, now: float) -> bool:
        """Return whether a line may be written at *now*, and count it; otherwise count it as left out."""
        if now >= self._ends_at:
            self._ends_at = now + INTERVAL_SECONDS
            self._lines_left = LINES_PER_INTERVAL
        if self._lines_left == 0:
            self.left_out += 1
            return False
        self._lines_left -= 1
        return True
