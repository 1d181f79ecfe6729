"""How each error of Redis is handled: one table, from the first word of the error to an `ErrorRule`.

docs/redis.md#when-something-fails says what clients and operators see of these errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from redis import exceptions

from gateway.errors import BrokerFull, BrokerUnavailable, GatewayError

_DETAILS_MAX_CHARACTERS = 400
"""How much of Redis' error text is repeated; the text may contain a line for each of several sentinels."""


class ErrorAction(Enum):
    """What is done with the call and with the connection of the call."""

    REJECT = auto()
    """The call fails with `BrokerUnavailable`; the connection stays."""
    RECONNECT = auto()
    """The call fails with `BrokerUnavailable`; the next call uses a new connection."""
    RESEND = auto()
    """The call was not carried out: it is sent again over a new connection while the shard is available."""
    OUT_OF_MEMORY = auto()
    """The call fails with `BrokerFull`; the connection stays."""
    LOAD_SCRIPTS = auto()
    """The call was not carried out: the scripts are loaded, and the call is retried once."""
    FIND_PRIMARY = auto()
    """The call was not carried out: the primary is looked up, and the call is sent again there."""
    SLOT_MOVING = auto()
    """The call fails with `SlotMoving`: the slot is moving to another node of the Cluster."""
    FENCE = auto()
    """The call fails with `Fenced`: this node was reaped, and starts a new incarnation."""


class BreakerOutcome(Enum):
    """How the breaker counts the call."""

    ANSWERED = auto()
    """Redis works; the call was wrong."""
    FAILURE = auto()
    TIMEOUT = auto()


class Fenced(BrokerUnavailable):
    """This node was reaped, and is about to start a new incarnation."""


class SlotMoving(BrokerUnavailable):
    """The slot of a Cluster is moving: some keys are still on the former node, others on the new node."""


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """How one kind of error is handled."""

    action: ErrorAction
    outcome: BreakerOutcome
    message: str
    """The text for callers and operators."""
    retry_after: float = 1.0
    """Seconds after which a client may try again."""

    @property
    def reported_per_call(self) -> bool:
        """Whether a rejected call has to be reported by itself.

        If such calls are rejected, the lease may still be renewed, so that no loss of Redis is reported.
        """
        return self.action is ErrorAction.REJECT and (
            self.outcome is BreakerOutcome.ANSWERED or self is ERROR_TABLE["NOPERM"]
        )

    def to_exception(self, cause: BaseException | None = None, server: str = "") -> GatewayError:
        """Return the exception for the caller; its details name *server* and repeat the text of *cause*."""
        # "Unknown command" errors repeat the arguments, which may contain the whole source of a script.
        text = "" if cause is None else str(cause).partition(", with args beginning with")[0]
        text = text[:_DETAILS_MAX_CHARACTERS]
        # Some errors of redis-py already contain the address.
        details = ": ".join(part for part in ("" if server in text else server, text) if part)
        if self.action is ErrorAction.OUT_OF_MEMORY:
            return BrokerFull(self.message, details=details)
        return _UNAVAILABLE.get(self.action, BrokerUnavailable)(
            self.message, details=details, retry_after=self.retry_after
        )


_UNAVAILABLE = {ErrorAction.FENCE: Fenced, ErrorAction.SLOT_MOVING: SlotMoving}

TIMED_OUT = ErrorRule(ErrorAction.RECONNECT, BreakerOutcome.TIMEOUT, "Redis did not answer in time")
CONNECTION_LOST = ErrorRule(ErrorAction.RECONNECT, BreakerOutcome.FAILURE, "the connection to Redis failed")

ERROR_TABLE = {
    "LOADING": ErrorRule(ErrorAction.RESEND, BreakerOutcome.FAILURE, "Redis is loading its data"),
    "READONLY": ErrorRule(
        ErrorAction.RESEND, BreakerOutcome.FAILURE, "this Redis is a replica: its primary has moved"
    ),
    "MASTERDOWN": ErrorRule(
        ErrorAction.RESEND, BreakerOutcome.FAILURE, "this Redis is a replica that has lost its primary"
    ),
    "CLUSTERDOWN": ErrorRule(ErrorAction.RESEND, BreakerOutcome.FAILURE, "the Redis Cluster is down"),
    "MOVED": ErrorRule(
        ErrorAction.FIND_PRIMARY,
        BreakerOutcome.FAILURE,
        "another node of the Redis Cluster has this slot: set broker.cluster, if it is not set",
    ),
    "ASK": ErrorRule(
        ErrorAction.SLOT_MOVING,
        BreakerOutcome.ANSWERED,
        "this slot of the Redis Cluster is moving to another node",
    ),
    "TRYAGAIN": ErrorRule(
        ErrorAction.SLOT_MOVING, BreakerOutcome.ANSWERED, "this slot of the Redis Cluster is moving"
    ),
    "CROSSSLOT": ErrorRule(
        ErrorAction.REJECT,
        BreakerOutcome.ANSWERED,
        "this Redis belongs to a Cluster: set broker.cluster",
        30.0,
    ),
    "OOM": ErrorRule(
        ErrorAction.OUT_OF_MEMORY,
        BreakerOutcome.ANSWERED,
        "Redis is out of memory: raise maxmemory or keep less history",
    ),
    "NOREPLICAS": ErrorRule(
        ErrorAction.REJECT, BreakerOutcome.FAILURE, "Redis has fewer replicas than min-replicas-to-write"
    ),
    "MISCONF": ErrorRule(
        ErrorAction.REJECT, BreakerOutcome.FAILURE, "Redis cannot save to disk and accepts no writes", 5.0
    ),
    "NOSCRIPT": ErrorRule(
        ErrorAction.LOAD_SCRIPTS, BreakerOutcome.ANSWERED, "Redis does not have the scripts"
    ),
    "NOAUTH": ErrorRule(
        ErrorAction.RECONNECT, BreakerOutcome.FAILURE, "Redis wants a password: set broker.password", 5.0
    ),
    "WRONGPASS": ErrorRule(
        ErrorAction.RECONNECT, BreakerOutcome.FAILURE, "Redis refuses this user or its password", 5.0
    ),
    "NOPERM": ErrorRule(
        ErrorAction.REJECT, BreakerOutcome.FAILURE, "Redis' ACL forbids this user a command or a key", 5.0
    ),
    "WRONGTYPE": ErrorRule(
        ErrorAction.REJECT,
        BreakerOutcome.ANSWERED,
        "a key of this gateway holds a value that it did not write: set broker.prefix",
        30.0,
    ),
    "BUSY": ErrorRule(ErrorAction.REJECT, BreakerOutcome.FAILURE, "Redis is busy running a script"),
    "FENCED": ErrorRule(ErrorAction.FENCE, BreakerOutcome.ANSWERED, "this node lost its lease", 0.5),
    "ERR": ErrorRule(
        ErrorAction.REJECT,
        BreakerOutcome.ANSWERED,
        "Redis refuses a command: is it at least 6.2, and not a sentinel?",
        5.0,
    ),
}
"""The rule for each error, by the first word of Redis' answer."""

ANSWERED_ERRORS = (
    exceptions.ResponseError,
    exceptions.BusyLoadingError,
    exceptions.AuthenticationError,
)
"""Errors that Redis answers to a command, and after which it answers the next command. For redis-py two of
them are failures of the connection."""

NOT_CARRIED_OUT = frozenset((ErrorAction.RESEND, ErrorAction.FIND_PRIMARY))
"""What is done with calls that Redis has certainly not carried out, and that may succeed if sent again."""

REPLACES_CONNECTION = frozenset((ErrorAction.RECONNECT, ErrorAction.RESEND))
"""What is done with calls whose connection must not be used again."""

_FIRST_WORDS: dict[type[Exception], str] = {
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
"""The first word of errors for which redis-py has a class: redis-py removes that word from the text."""

_RULES_BY_TEXT = {
    "without any password configured": ErrorRule(
        ErrorAction.RECONNECT,
        BreakerOutcome.FAILURE,
        "this Redis has no password: remove broker.password, or the one in the URL",
        5.0,
    ),
    "DB index is out of range": ErrorRule(
        ErrorAction.RECONNECT,
        BreakerOutcome.FAILURE,
        "this Redis has no database of that number: see its `databases`, or choose another in the URL",
        5.0,
    ),
    "SELECT is not allowed in cluster mode": ErrorRule(
        ErrorAction.RECONNECT,
        BreakerOutcome.FAILURE,
        "a Redis Cluster has database 0 alone: leave it out of the URL",
        5.0,
    ),
    "cluster support disabled": ErrorRule(
        ErrorAction.RECONNECT,
        BreakerOutcome.FAILURE,
        "this Redis is not a Cluster: set broker.cluster = false",
        5.0,
    ),
    # The text of Redis 6.2 for a command inside a script.
    "The user executing the script can't": ERROR_TABLE["NOPERM"],
}
"""Rules for errors with the general first word `ERR`, by a part of the error text."""

_ERROR_IN_SCRIPT = re.compile(r"^(?:ERR )?Error running script.*?: -?([A-Z]+) ")
"""Redis 6.2 wraps the error of a command inside a script; redis-py removes the `ERR ` before it."""


def rule_for(error: BaseException) -> ErrorRule:
    """Return the rule for *error*, as redis-py or asyncio raised it."""
    if isinstance(error, (TimeoutError, exceptions.TimeoutError)):
        return TIMED_OUT
    if isinstance(error, exceptions.RedisError):
        for text, rule in _RULES_BY_TEXT.items():
            if text in str(error):
                return rule
    for kind in type(error).__mro__:
        if kind in _FIRST_WORDS:
            wrong_user = kind is exceptions.AuthenticationError and "invalid username" in str(error)
            return ERROR_TABLE["WRONGPASS" if wrong_user else _FIRST_WORDS[kind]]
    if isinstance(error, exceptions.ResponseError):
        text = str(error)
        word = inner[1] if (inner := _ERROR_IN_SCRIPT.match(text)) else text.partition(" ")[0]
        return ERROR_TABLE.get(word, ERROR_TABLE["ERR"])
    return CONNECTION_LOST
