"""Who gets in: the node's bounds on connections, and on how fast they come."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Literal

from gateway.access.ratelimit import TokenBucket
from gateway.errors import Rejection
from protocol.errors import ErrorCode

Reason = Literal["overloaded", "connections", "address", "rate", "user"]


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """The bounds of one node; a count of 0 is no bound.

    `upgrades_per_s` on average and `upgrade_burst` at once, which is a second's worth where it is 0. An IPv6
    address stands for its /64: one subscriber's line has that many (RFC 6177).
    """

    upgrades_per_s: float = 10_000.0
    upgrade_burst: float = 0.0
    connections: int = 0
    per_address: int = 0
    per_user: int = 0


class Ticket:
    """A place on the node, until it is released."""

    __slots__ = ("_address", "_admission")

    def __init__(self, admission: Admission, address: str) -> None:
        self._admission: Admission | None = admission
        self._address = address

    def release(self) -> None:
        """Give the place back; a second call does nothing."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._leave(self._address)  # noqa: SLF001 (a ticket is the admission's other half)


class UserTicket:
    """A place among one user's connections, until it is released."""

    __slots__ = ("_admission", "_user")

    def __init__(self, admission: Admission, user: str) -> None:
        self._admission: Admission | None = admission
        self._user = user

    def release(self) -> None:
        """Give the place back; a second call does nothing."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._leave_user(self._user)  # noqa: SLF001 (a ticket is the admission's other half)


class Admission:
    """Counts the connections of one node and refuses those above its bounds.

    `overloaded` is a switch for whoever measures the load: while it is set, no upgrade is admitted.
    """

    __slots__ = (
        "_addresses",
        "_connections",
        "_limits",
        "_random",
        "_refused",
        "_upgrades",
        "_users",
        "overloaded",
    )

    def __init__(self, limits: AdmissionLimits, *, random: Callable[[], float] = random.random) -> None:
        """Hold *limits*; *random* gives numbers from 0 to 1, which spread those who were refused."""
        self._limits = limits
        self._random = random
        self._upgrades = TokenBucket(
            rate_per_s=limits.upgrades_per_s, burst=limits.upgrade_burst or max(1.0, limits.upgrades_per_s)
        )
        self._connections = 0
        self._addresses: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._refused: Counter[Reason] = Counter()
        self.overloaded = False

    def __repr__(self) -> str:
        state = " overloaded" if self.overloaded else ""
        return f"<Admission {self._connections} connections, {len(self._users)} users{state}>"

    def admit_upgrade(self, address: str) -> Ticket | Rejection:
        """Return a place for a client at *address* (empty where it has none), or how to refuse it.

        The rate comes last, so that who is refused for another reason does not use it up.
        """
        source = _source(address)
        reason = self._objection(source)
        if reason is not None:
            return self._rejection(reason)
        self._connections += 1
        self._addresses[source] += 1
        return Ticket(self, source)

    def admit_user(self, user: str) -> UserTicket | Rejection:
        """Return a place among *user*'s connections, or why there is none; the anonymous are not counted."""
        bound = self._limits.per_user
        if not user:
            return UserTicket(self, user)
        if bound and self._users[user] >= bound:
            self._refused["user"] += 1
            return Rejection(
                ErrorCode.LIMIT_EXCEEDED,
                f"this user has {bound} connections already: close one, then reconnect",
            )
        self._users[user] += 1
        return UserTicket(self, user)

    def statistics(self) -> dict[str, int]:
        """Return the counts of now, and of all refusals by reason."""
        return {
            "connections": self._connections,
            "addresses": len(self._addresses),
            "users": len(self._users),
            "overloaded": int(self.overloaded),
        } | {f"refused_{reason}": self._refused[reason] for reason in _REASONS}

    def _objection(self, source: str) -> Reason | None:
        limits = self._limits
        if self.overloaded:
            return "overloaded"
        if limits.connections and self._connections >= limits.connections:
            return "connections"
        if limits.per_address and source and self._addresses[source] >= limits.per_address:
            return "address"
        return "rate" if self._upgrades.take(1.0) else None

    def _rejection(self, reason: Reason) -> Rejection:
        self._refused[reason] += 1
        code, (least, most), message = _REJECTIONS[reason]
        retry_after = least + min(int(self._random() * (most - least + 1)), most - least)
        return Rejection(code, message, float(retry_after))

    def _leave(self, source: str) -> None:
        self._connections -= 1
        _decrement(self._addresses, source)

    def _leave_user(self, user: str) -> None:
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


def _source(address: str) -> str:
    """Return what *address* is counted as: itself, its /64, or the IPv4 address that it stands for."""
    if ":" not in address:
        return address
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or f"{IPv6Address(int(parsed) >> 64 << 64)}/64")
    return address
