"""Admission of connections: limits of one node on how many there are, and on how fast they arrive."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from aiolimiter import AsyncLimiter

from gateway import defaults
from gateway.access.client_address import source_of
from gateway.errors import Rejection
from protocol.errors import ErrorCode

Reason = Literal["overloaded", "connections", "address", "rate", "user"]


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """The limits of one node; a count of 0 means no limit.

    `connects_per_second` on average and `connect_burst` at once; a burst of 0 means as many as in one second.
    An IPv6 address counts as its /64 (`source_of`).
    """

    connects_per_second: float = defaults.CONNECTS_PER_SECOND
    connect_burst: float = 0.0
    connections: int = 0
    per_address: int = 0
    per_user: int = 0


class AddressSlot:
    """One connection's share of its address's limit, until `release`."""

    __slots__ = ("_address", "_admission")

    def __init__(self, admission: Admission, address: str) -> None:
        self._admission: Admission | None = admission
        self._address = address

    def release(self) -> None:
        """Free the slot; a second call does nothing."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._release_address(self._address)  # noqa: SLF001 (the slot is a part of the admission)


class ClientSlot:
    """One client's share of the node's limit and of its user's, from its `connect` until `release`."""

    __slots__ = ("_admission", "_user")

    def __init__(self, admission: Admission, user: str) -> None:
        self._admission: Admission | None = admission
        self._user = user

    def release(self) -> None:
        """Free the slot; a second call does nothing."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._release_client(self._user)  # noqa: SLF001 (the slot is a part of the admission)


class Admission:
    """Counts the connections of one node and rejects those beyond its limits.

    `overloaded` is set from outside, where the load is measured: while it is True, no upgrade is admitted.
    """

    __slots__ = (
        "_addresses",
        "_connections",
        "_limits",
        "_random",
        "_rejected",
        "_upgrades",
        "_users",
        "overloaded",
    )

    def __init__(self, limits: AdmissionLimits, *, random: Callable[[], float] = random.random) -> None:
        """Apply *limits*; *random* returns numbers from 0 to 1, which spread the retries of clients."""
        self._limits = limits
        self._random = random
        burst = limits.connect_burst or max(1.0, limits.connects_per_second)
        # aiolimiter admits `max_rate` at once and frees `max_rate / time_period` a second.
        self._upgrades = AsyncLimiter(max_rate=burst, time_period=burst / limits.connects_per_second)
        self._connections = 0
        self._addresses: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._rejected: Counter[Reason] = Counter()
        self.overloaded = False

    def __repr__(self) -> str:
        state = " overloaded" if self.overloaded else ""
        return f"<Admission {self._connections} connections, {len(self._users)} users{state}>"

    def admit_upgrade(self, address: str) -> AddressSlot | Rejection:
        """Return a slot for a client at *address* (empty if it has none), or why there is none.

        The rate is checked last: an upgrade that is rejected for another reason does not count towards it.
        """
        source = source_of(address)
        reason = self._exceeded_limit(source)
        if reason is not None:
            return self._rejection(reason)
        self._addresses[source] += 1
        return AddressSlot(self, source)

    def admit_client(self, user: str) -> ClientSlot | Rejection:
        """Return a slot for a client of *user* that has sent `connect`, or why there is none.

        The connections of anonymous clients, whose user is "", count towards the node's limit alone. Before
        `connect` no connection does: whoever has not sent it takes no place of one who has.
        """
        limit = self._limits.per_user
        if user and limit and self._users[user] >= limit:
            self._rejected["user"] += 1
            return Rejection(
                ErrorCode.LIMIT_EXCEEDED,
                f"this user has {limit} connections already: close one, then reconnect",
            )
        if self._is_full:
            return self._rejection("connections")
        self._connections += 1
        if user:
            self._users[user] += 1
        return ClientSlot(self, user)

    def statistics(self) -> dict[str, int]:
        """Return the present counts, and how many were rejected since the start, by reason."""
        return {
            "connections": self._connections,
            "addresses": len(self._addresses),
            "users": len(self._users),
            "overloaded": int(self.overloaded),
        } | {f"refused_{reason}": self._rejected[reason] for reason in _REASONS}

    def _exceeded_limit(self, source: str) -> Reason | None:
        limits = self._limits
        if self.overloaded:
            return "overloaded"
        if self._is_full:
            return "connections"
        if limits.per_address and source and self._addresses[source] >= limits.per_address:
            return "address"
        return None if self._within_rate() else "rate"

    @property
    def _is_full(self) -> bool:
        return 0 < self._limits.connections <= self._connections

    def _within_rate(self) -> bool:
        """Return whether the rate admits one more upgrade now, and count it if so."""
        if not self._upgrades.has_capacity():
            return False
        # `acquire` waits only if there is no capacity, so this coroutine ends with its first step.
        with suppress(StopIteration):
            self._upgrades.acquire().send(None)
        return True

    def _rejection(self, reason: Reason) -> Rejection:
        self._rejected[reason] += 1
        code, (least, most), message = _REJECTIONS[reason]
        retry_after = least + min(int(self._random() * (most - least + 1)), most - least)
        return Rejection(code, message, float(retry_after))

    def _release_address(self, source: str) -> None:
        _decrement(self._addresses, source)

    def _release_client(self, user: str) -> None:
        self._connections -= 1
        if user:
            _decrement(self._users, user)


_REASONS: tuple[Reason, ...] = ("overloaded", "connections", "address", "rate", "user")
_REJECTIONS: dict[Reason, tuple[ErrorCode, tuple[int, int], str]] = {
    "overloaded": (
        ErrorCode.UNAVAILABLE,
        (1, 5),
        "this node is overloaded: connect again after Retry-After",
    ),
    "connections": (ErrorCode.UNAVAILABLE, (1, 5), "this node is full: connect again after Retry-After"),
    "rate": (ErrorCode.UNAVAILABLE, (1, 5), "too many connect at once: connect again after Retry-After"),
    "address": (
        ErrorCode.LIMIT_EXCEEDED,
        (10, 30),
        "too many connections from this address: close some, or connect again after Retry-After",
    ),
}
"""By reason: the error code, the least and most whole seconds until the next attempt, and the message."""


def _decrement(counts: Counter[str], key: str) -> None:
    if counts[key] > 1:
        counts[key] -= 1
    else:
        del counts[key]
