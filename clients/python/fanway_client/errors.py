"""What the calls of this library raise."""

from __future__ import annotations

from fanway_client._protocol.errors import TRANSIENT_ERRORS

CONNECTION_LOST = "connection_lost"
"""The connection ended before the reply; the command may have been carried out."""
TIMEOUT = "timeout"
"""There was no connection in time; the command was never sent."""
UNCERTAIN = "uncertain"
"""A publish was sent, and whether it happened is not known; it is not sent again."""
QUEUE_FULL = "queue_full"
"""Too many publishes wait for a connection."""
OVERFLOW = "overflow"
"""An `async for` loop was too slow for its buffer."""
STOPPED = "stopped"
"""The client has stopped."""
NOT_CONNECTED = "not_connected"
"""The command needs a connection, and there is none."""


class FanwayError(Exception):
    """A command was not carried out, or a channel is gone.

    Attributes:
        code: For programs: a code of the gateway (docs/protocol.md#errors), or one of this module.
        message: For people; the text may change.
        retry_after: Seconds to wait before another try, if the gateway named them.
        reason: The reason that the application's backend gave, for `rejected`.
    """

    def __init__(
        self, code: str, message: str, *, retry_after: float | None = None, reason: str | None = None
    ) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.reason = reason

    @property
    def retryable(self) -> bool:
        """Whether the same command may succeed later."""
        return self.code in TRANSIENT_CODES or self.code in {CONNECTION_LOST, TIMEOUT}


class UnauthorizedError(Exception):
    """Raise it in `get_token` to stop the client: the user is signed out, and no other try will help."""


TRANSIENT_CODES = frozenset(map(str, TRANSIENT_ERRORS))
"""Codes after which the same command may succeed later."""
