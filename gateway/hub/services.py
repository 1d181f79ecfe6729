"""What every session of a node shares: where to ask, and how much is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.access.admission import Admission
from gateway.access.permissions import Namespaces
from gateway.access.tokens import Verifier
from gateway.broker.base import Broker
from gateway.clock import Clock, monotonic, wall
from gateway.hub.heartbeat import Heartbeat
from gateway.hub.hub import Hub
from gateway.tasks import Tasks


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The limits of one session (docs/configuration.md#limits)."""

    message_size: int = 64 * 1024
    channels: int = 128
    commands_per_second: float = 50.0
    command_burst: float = 200.0
    costs: Mapping[str, float] = field(default_factory=dict)
    strikes: int = 20
    connect_timeout: float = 5.0
    history_reply: int = 1_000
    presence_reply: int = 1_000
    rewind: int = 100
    outbox: int = 1024 * 1024
    catch_up_batch: int = 128
    backlog: int = 64
    """Commands that wait while an earlier one waits for the broker; then the socket is not read."""

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
    """None where no keys are configured: then only anonymous connections are possible."""
    limits: SessionLimits
    anonymous: bool = False
    """Whether a client may connect without a token."""
    per_user_policy: Literal["refuse", "replace"] = "refuse"
    """What happens to a user's connection above the cap: it is rejected (4010), or the oldest ends (4012)."""
    clock: Clock = monotonic
    wall: Clock = wall
    on_error: Callable[[BaseException], None] = lambda _: None
    """Called with errors that are a fault of this program."""
