"""The objects and limits that all sessions of a node share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway import defaults
from gateway.access.admission import Admission
from gateway.access.permissions import Namespaces
from gateway.access.tokens import Verifier
from gateway.broker.base import Broker
from gateway.clock import Clock, monotonic, wall
from gateway.hub.heartbeat import Heartbeat
from gateway.hub.hub import Hub
from gateway.tasks import Tasks
from protocol import limits
from protocol.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The limits of one session (docs/configuration.md#limits)."""

    message_size: int = limits.MESSAGE_SIZE
    channels: int = defaults.CHANNELS_PER_CONNECTION
    commands_per_second: float = defaults.COMMANDS_PER_SECOND
    command_burst: float = defaults.COMMAND_BURST
    costs: Mapping[str, float] = field(default_factory=dict)
    strikes: int = defaults.STRIKES
    connect_timeout: float = limits.CONNECT_TIMEOUT
    history_reply: int = limits.HISTORY_LIMIT
    presence_reply: int = defaults.PRESENCE_REPLY
    rewind: int = defaults.REWIND
    outbox: int = defaults.OUTBOX_BYTES
    catch_up_batch: int = defaults.CATCH_UP_BATCH
    backlog: int = 64
    """Commands that may wait while an earlier one runs; at this number, the socket is not read."""

    def as_reply(self) -> dict[str, Any]:
        """Return the limits that a client gets in `connected` (docs/protocol.md#limits)."""
        return {
            "message_size": self.message_size,
            "channels": self.channels,
            "commands_per_second": self.commands_per_second,
            "command_burst": self.command_burst,
            "history": self.history_reply,
            "presence": self.presence_reply,
            "rewind": self.rewind,
        }


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a session uses and does not own."""

    hub: Hub
    broker: Broker
    namespaces: Namespaces
    admission: Admission
    heartbeat: Heartbeat
    tasks: Tasks
    verifier: Verifier | None
    """None if no keys are configured: then only anonymous connections are possible."""
    limits: SessionLimits
    anonymous: bool = False
    """Whether a client may connect without a token."""
    per_user_policy: Literal["refuse", "replace"] = "refuse"
    """Above a user's cap, the new connection is rejected (4010), or the oldest one is closed (4012)."""
    clock: Clock = monotonic
    wall_clock: Clock = wall
    on_error: Callable[[BaseException], None] = lambda _: None
    """Called with errors that are a fault of this program."""
    on_token_refused: Callable[[ProtocolError], None] = lambda _: None
    """Called with the reason for each token that is refused."""
