"""Notices: events of a shard that an operator should know of; logged by `gateway/observe/notices.py`.

The log events are listed in docs/operations.md#logs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RedisLost:
    """The shard's Redis does not answer, or rejects calls; given once for each kind of reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class RedisRestored:
    """The shard's Redis answers again."""


@dataclass(frozen=True, slots=True)
class WritesLost:
    """Redis lost writes that it had acknowledged; subscribers of the shard's channels get a gap."""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """This node renewed its lease too late and started a new incarnation.

    Missed messages are read from history; subscribers of channels without history get a gap.
    """


@dataclass(frozen=True, slots=True)
class NodeReaped:
    """This node removed the routes and members of *reaped*, a node whose lease had expired."""

    reaped: str


@dataclass(frozen=True, slots=True)
class RoutesMissing:
    """So many of this node's routes were gone from Redis: Redis evicts keys, or somebody deleted them."""

    routes: int


@dataclass(frozen=True, slots=True)
class EvictionEnabled:
    """*server* has a memory limit, and evicts keys by *policy* when the limit is reached."""

    server: str
    policy: str


@dataclass(frozen=True, slots=True)
class CallRejected:
    """Redis works but rejects a call that can never succeed; given once for each kind of reason."""

    reason: str


Notice = (
    RedisLost
    | RedisRestored
    | WritesLost
    | LeaseLost
    | NodeReaped
    | RoutesMissing
    | EvictionEnabled
    | CallRejected
)

OnNotice = Callable[[Notice], None]
"""Receives the notices of one shard."""
