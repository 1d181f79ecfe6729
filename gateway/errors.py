"""What may go wrong inside a gateway, and what a client is answered when something is not done.

A `protocol.errors.ProtocolError` is what a client did wrong, a `GatewayError` what the gateway could not do.
A decision that rejects something without raising returns a `Rejection`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from protocol.errors import ClientFault, ErrorCode, ProtocolError, ServerFault

UNAVAILABLE_RETRY_SECONDS = 1.0
"""A client may try again after this time, if no better estimate is known."""

FULL_RETRY_SECONDS = 5.0
"""After this time a broker without memory may have dropped expired history: a node does so every 5 s."""


class GatewayError(Exception):
    """The root of the exceptions that this package raises on purpose."""

    def __init__(self, kind: str, *, details: str = "") -> None:
        """Create an error of *kind*, with *details* of this occurrence in brackets."""
        super().__init__(f"{kind} ({details})" if details else kind)
        self.kind = kind
        self.details = details


class BrokerUnavailable(GatewayError):
    """The broker cannot do it now; nothing was promised, and the same call may succeed later."""

    def __init__(
        self, kind: str, *, details: str = "", retry_after: float = UNAVAILABLE_RETRY_SECONDS
    ) -> None:
        """Create an error that asks to try again after *retry_after* seconds."""
        super().__init__(kind, details=details)
        self.retry_after = retry_after


class BrokerFull(GatewayError):
    """The broker has no memory left for a message that has to be stored."""


class KeyReused(GatewayError):
    """The idempotency key of a publish belongs to a message with other content."""

    def __init__(self, key: str) -> None:
        super().__init__("the key belongs to another message", details=f"{key!r:.80}")


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why something is not done: what the `error` of a command, or the body of an HTTP error, says.

    The status of an HTTP answer follows from `code` (`gateway.transport.http.rejections`).
    """

    code: ErrorCode
    message: str
    retry_after: float | None = None
    """Seconds after which the same request may succeed; None if waiting does not help."""

    @property
    def retry_after_ms(self) -> int | None:
        """`retry_after` as the wire has it, rounded up: a client that waits exactly so long is not early."""
        return None if self.retry_after is None else math.ceil(self.retry_after * 1000)

    def error(self) -> ProtocolError:
        """Return this as the exception that a command handler raises."""
        fault = ServerFault if self.code in _SERVER_FAULTS else ClientFault
        return fault(self.code, self.message, retry_after_ms=self.retry_after_ms)


_SERVER_FAULTS = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL})


def rejection_of(error: GatewayError) -> Rejection:
    """Return what a client is answered when the broker raised *error*."""
    if isinstance(error, KeyReused):
        message = "the key was used for a message with other content; this message needs a key of its own"
        return Rejection(ErrorCode.KEY_REUSED, message)
    if isinstance(error, BrokerFull):
        return Rejection(ErrorCode.UNAVAILABLE, "the broker is full", FULL_RETRY_SECONDS)
    retry_after = error.retry_after if isinstance(error, BrokerUnavailable) else UNAVAILABLE_RETRY_SECONDS
    return Rejection(ErrorCode.UNAVAILABLE, "the broker cannot take it now", retry_after)
