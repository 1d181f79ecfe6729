"""What whoever is on call should hear of a shard, as it happens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RedisLost:
    """Its Redis does not answer, or refuses; told again where that is for another reason, in words."""

    reason: str


@dataclass(frozen=True, slots=True)
class RedisRestored:
    """Its Redis answers again."""


@dataclass(frozen=True, slots=True)
class WritesLost:
    """Its Redis has forgotten what it had acknowledged: those who follow its channels are told."""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """This node came too late to renew its lease, and has begun anew: what it missed is healed, or told."""


@dataclass(frozen=True, slots=True)
class NodeReaped:
    """This node has cleaned up after another, which did not renew its lease."""

    reaped: str


@dataclass(frozen=True, slots=True)
class RoutesMissing:
    """So many channels or users were no longer routed to this node: somebody takes keys from Redis."""

    routes: int


@dataclass(frozen=True, slots=True)
class EvictionEnabled:
    """Its Redis evicts keys by this policy when it is full, in use or not."""

    server: str
    policy: str


@dataclass(frozen=True, slots=True)
class CallRejected:
    """Its Redis works and refuses a call that can never succeed; told once for each kind of reason."""

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
