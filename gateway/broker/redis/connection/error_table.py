"""What each of Redis' errors means for us: one table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from redis import exceptions

from gateway.errors import BrokerFull, BrokerUnavailable, GatewayError

_LONGEST = 400
"""Characters of an error that are repeated: a line for each of several sentinels is among them."""


class Action(Enum):
    """What becomes of the connection and of the call."""

    REFUSE = auto()
    """The call fails with `BrokerUnavailable`; the connection is fine."""
    RECONNECT = auto()
    """The call fails, and the next one goes over a new connection: this one leads nowhere."""
    FULL = auto()
    """The call fails with `BrokerFull`."""
    LOAD = auto()
    """The scripts are loaded and the call is made again, once: it was not carried out."""
    FOLLOW = auto()
    """The primary is looked up anew and the call is made again there, once: it was not carried out."""
    WAIT = auto()
    """The call fails with `SlotMoving`: what it needs is on its way to another node of the Cluster."""
    FENCE = auto()
    """This node's lease is gone: it begins a new incarnation."""


class BreakerOutcome(Enum):
    """What the breaker makes of it."""

    ANSWER = auto()
    """Redis works; it is the call that was wrong."""
    FAILURE = auto()
    TIMEOUT = auto()


class Fenced(BrokerUnavailable):
    """This node's lease was taken away; it is about to take another."""


class SlotMoving(BrokerUnavailable):
    """The slot of a Cluster moves; what it holds is partly here and partly there."""


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """How one kind of error is dealt with."""

    then: Action
    counts: BreakerOutcome
    says: str
    retry_after: float = 1.0

    @property
    def tells_of_itself(self) -> bool:
        """Whether the lease may be renewed all the same, so that the call has to say what is wrong."""
        return self.then is Action.REFUSE and (
            self.counts is BreakerOutcome.ANSWER or self is ERROR_TABLE["NOPERM"]
        )

    def error(self, cause: BaseException | None = None, server: str = "") -> GatewayError:
        """Return what the caller is told: what *server* did, and how it, or redis-py, says so itself."""
        # What it does not know it repeats: that may be all of a script.
        own = "" if cause is None else str(cause).partition(", with args beginning with")[0][:_LONGEST]
        # redis-py repeats the address in some of its own.
        details = ": ".join(each for each in ("" if server in own else server, own) if each)
        if self.then is Action.FULL:
            return BrokerFull(self.says, details=details)
        return _UNAVAILABLE.get(self.then, BrokerUnavailable)(
            self.says, details=details, retry_after=self.retry_after
        )


_UNAVAILABLE = {Action.FENCE: Fenced, Action.WAIT: SlotMoving}

TIMED_OUT = ErrorRule(Action.RECONNECT, BreakerOutcome.TIMEOUT, "Redis did not answer in time")
CONNECTION_LOST = ErrorRule(Action.RECONNECT, BreakerOutcome.FAILURE, "the connection to Redis failed")

ERROR_TABLE = {
    "LOADING": ErrorRule(Action.RECONNECT, BreakerOutcome.FAILURE, "Redis is loading its data"),
    "READONLY": ErrorRule(
        Action.RECONNECT, BreakerOutcome.FAILURE, "this Redis is a replica: its primary has moved"
    ),
    "MASTERDOWN": ErrorRule(
        Action.RECONNECT, BreakerOutcome.FAILURE, "this Redis is a replica that has lost its primary"
    ),
    "CLUSTERDOWN": ErrorRule(Action.RECONNECT, BreakerOutcome.FAILURE, "the Redis Cluster is down"),
    "MOVED": ErrorRule(
        Action.FOLLOW,
        BreakerOutcome.FAILURE,
        "another node of the Redis Cluster has this slot: set broker.cluster, where it is not set",
    ),
    "ASK": ErrorRule(
        Action.WAIT, BreakerOutcome.ANSWER, "this slot of the Redis Cluster is moving to another node"
    ),
    "TRYAGAIN": ErrorRule(Action.WAIT, BreakerOutcome.ANSWER, "this slot of the Redis Cluster is moving"),
    "CROSSSLOT": ErrorRule(
        Action.REFUSE, BreakerOutcome.ANSWER, "this Redis belongs to a Cluster: set broker.cluster", 30.0
    ),
    "OOM": ErrorRule(
        Action.FULL, BreakerOutcome.ANSWER, "Redis is out of memory: raise maxmemory or keep less history"
    ),
    "NOREPLICAS": ErrorRule(
        Action.REFUSE, BreakerOutcome.FAILURE, "Redis has fewer replicas than min-replicas-to-write"
    ),
    "MISCONF": ErrorRule(
        Action.REFUSE, BreakerOutcome.FAILURE, "Redis cannot save to disk and takes no writes", 5.0
    ),
    "NOSCRIPT": ErrorRule(Action.LOAD, BreakerOutcome.ANSWER, "Redis has forgotten the scripts"),
    "NOAUTH": ErrorRule(
        Action.RECONNECT, BreakerOutcome.FAILURE, "Redis wants a password: set broker.password", 5.0
    ),
    "WRONGPASS": ErrorRule(
        Action.RECONNECT, BreakerOutcome.FAILURE, "Redis refuses this user or its password", 5.0
    ),
    "NOPERM": ErrorRule(
        Action.REFUSE, BreakerOutcome.FAILURE, "Redis' ACL forbids this user a command or a key", 5.0
    ),
    "WRONGTYPE": ErrorRule(
        Action.REFUSE, BreakerOutcome.ANSWER, "a key of ours holds what is not ours: set broker.prefix", 30.0
    ),
    "BUSY": ErrorRule(Action.REFUSE, BreakerOutcome.FAILURE, "Redis is busy with somebody's script"),
    "FENCED": ErrorRule(Action.FENCE, BreakerOutcome.ANSWER, "this node's lease is gone", 0.5),
    "ERR": ErrorRule(
        Action.REFUSE,
        BreakerOutcome.ANSWER,
        "Redis refuses a command: is it at least 6.2, and no sentinel?",
        5.0,
    ),
}
"""By the first word of Redis' answer."""

_CLASSES: dict[type[Exception], str] = {
    exceptions.BusyLoadingError: "LOADING",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.MasterDownError: "MASTERDOWN",
    exceptions.ClusterDownError: "CLUSTERDOWN",
    exceptions.MovedError: "MOVED",
    exceptions.AskError: "ASK",
    exceptions.TryAgainError: "TRYAGAIN",
    exceptions.ClusterCrossSlotError: "CROSSSLOT",
    exceptions.OutOfMemoryError: "OOM",
    exceptions.NoScriptError: "NOSCRIPT",
    exceptions.AuthenticationError: "NOAUTH",
    exceptions.NoPermissionError: "NOPERM",
}
"""redis-py takes the first word away from the errors that it knows."""

_TEXTS = {
    "without any password configured": ErrorRule(
        Action.RECONNECT,
        BreakerOutcome.FAILURE,
        "this Redis has no password: remove broker.password, or the one in the URL",
        5.0,
    ),
    "DB index is out of range": ErrorRule(
        Action.RECONNECT,
        BreakerOutcome.FAILURE,
        "this Redis has no database of that number: see its `databases`, or choose another in the URL",
        5.0,
    ),
    "SELECT is not allowed in cluster mode": ErrorRule(
        Action.RECONNECT,
        BreakerOutcome.FAILURE,
        "a Redis Cluster has database 0 alone: leave it out of the URL",
        5.0,
    ),
    "cluster support disabled": ErrorRule(
        Action.RECONNECT, BreakerOutcome.FAILURE, "this Redis is no Cluster: set broker.cluster = false", 5.0
    ),
    # Redis 6.2, of a command inside of a script.
    "The user executing the script can't": ERROR_TABLE["NOPERM"],
}
"""By what Redis says in whole words, where the first one tells nothing."""

_INNER = re.compile(r"^(?:ERR )?Error running script.*?: -?([A-Z]+) ")
"""Redis 6.2 wraps what a command inside of a script was answered, and redis-py takes its `ERR ` away."""


def rule_for(error: BaseException) -> ErrorRule:
    """Return how *error*, as redis-py or asyncio raised it, is dealt with."""
    if isinstance(error, (TimeoutError, exceptions.TimeoutError)):
        return TIMED_OUT
    if isinstance(error, exceptions.RedisError):
        for text, fault in _TEXTS.items():
            if text in str(error):
                return fault
    for kind in type(error).__mro__:
        if kind in _CLASSES:
            wrong = kind is exceptions.AuthenticationError and "invalid username" in str(error)
            return ERROR_TABLE["WRONGPASS" if wrong else _CLASSES[kind]]
    if isinstance(error, exceptions.ResponseError):
        text = str(error)
        word = inner[1] if (inner := _INNER.match(text)) else text.partition(" ")[0]
        return ERROR_TABLE.get(word, ERROR_TABLE["ERR"])
    return CONNECTION_LOST
