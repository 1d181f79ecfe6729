"""The objects and limits that all sessions of a node share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway import defaults
from gateway.access.admission import Admission
from gateway.access.command_costs import CommandCosts
from gateway.access.expiry import Expiry, SpentTokens
from gateway.access.permissions import Namespaces
from gateway.access.ratelimit import CommandRates
from gateway.access.tokens import Verifier
from gateway.broker.base import Broker
from gateway.clock import Clock, elapsed, monotonic, wall
from gateway.hub.heartbeat import Heartbeat
from gateway.hub.hub import Hub
from gateway.tasks import Slicer, Tasks
from protocol import limits
from protocol.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The limits of one session (docs/configuration.md#limits)."""

    message_size: int = limits.MESSAGE_SIZE
    channels: int = defaults.CHANNELS_PER_CONNECTION
    commands_per_second: float = defaults.COMMANDS_PER_SECOND
    command_burst: float = defaults.COMMAND_BURST
    costs: CommandCosts = field(default_factory=CommandCosts)
    strikes: int = defaults.STRIKES
    connect_timeout: float = limits.CONNECT_TIMEOUT
    history_reply: int = limits.HISTORY_LIMIT
    presence_reply: int = defaults.PRESENCE_REPLY
    rewind: int = defaults.REWIND
    outbox: int = defaults.OUTBOX_BYTES
    catch_up_batch: int = defaults.CATCH_UP_BATCH
    backlog: int = 64
    """Commands that may wait while an earlier one runs; at this number, the socket is not read."""
    key_ttl: float = defaults.IDEMPOTENCY_TTL_SECONDS
    heartbeat_grace: float = defaults.HEARTBEAT_GRACE_SECONDS
    connections_per_user: int = 0
    connections_per_address: int = 0
    user_commands_per_second: float = 0.0
    user_command_burst: float = 0.0
    address_commands_per_second: float = 0.0
    address_command_burst: float = 0.0
    """0: no limit. From `key_ttl` on, these are enforced elsewhere, and only told to clients here."""

    def as_reply(self) -> dict[str, Any]:
        """Return the limits that a client gets in `connected` (docs/protocol.md#limits)."""
        return {
            "message_size": self.message_size,
            "depth": limits.DEPTH,
            "channels": self.channels,
            "subs": limits.SUBSCRIPTIONS_AT_CONNECT,
            "commands_per_second": self.commands_per_second,
            "command_burst": self.command_burst,
            "user_commands_per_second": self.user_commands_per_second,
            "user_command_burst": self.user_command_burst,
            "address_commands_per_second": self.address_commands_per_second,
            "address_command_burst": self.address_command_burst,
            "costs": self.costs.as_reply(),
            "rejections": self.strikes,
            "history": self.history_reply,
            "rewind": self.rewind,
            "presence": self.presence_reply,
            "reply_size": self.outbox // 2,
            "channel_name": limits.CHANNEL_NAME,
            "personal_channel_name": limits.PERSONAL_CHANNEL_NAME,
            "token": limits.TOKEN_SIZE,
            "key": limits.IDEMPOTENCY_KEY,
            "key_ttl": self.key_ttl,
            "client_name": limits.CLIENT_NAME,
            "client_version": limits.CLIENT_VERSION,
            "fragments_per_second": limits.FRAGMENTS_PER_SECOND,
            "fragment_burst": limits.FRAGMENT_BURST,
            "control_frames_per_second": limits.CONTROL_FRAMES_PER_SECOND,
            "control_frame_burst": limits.CONTROL_FRAME_BURST,
            "connect_timeout": self.connect_timeout,
            "heartbeat_grace": self.heartbeat_grace,
            "connections_per_user": self.connections_per_user,
            "connections_per_address": self.connections_per_address,
        }


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a session uses and does not own."""

    hub: Hub
    broker: Broker
    namespaces: Namespaces
    admission: Admission
    rates: CommandRates
    heartbeat: Heartbeat
    tasks: Tasks
    slicer: Slicer
    """Shared by all long work of the node."""
    verifier: Verifier | None
    """None if no keys are configured: then only anonymous connections are possible."""
    limits: SessionLimits
    anonymous: bool = False
    """Whether a client may connect without a token."""
    per_user_policy: Literal["refuse", "replace"] = "refuse"
    """Above a user's cap, the new connection is rejected (4010), or the oldest one is closed (4012)."""
    clock: Clock = monotonic
    wall_clock: Clock = wall
    elapsed_clock: Clock = elapsed
    spent_tokens: SpentTokens = field(default_factory=SpentTokens)
    on_error: Callable[[BaseException], None] = lambda _: None
    """Called with errors that are a fault of this program."""
    on_token_refused: Callable[[ProtocolError], None] = lambda _: None
    """Called with the reason for each token that is rejected."""

    def expiry(self, expires_at: float) -> Expiry:
        """Return when a token that is admitted now ends; *expires_at* is its `exp`."""
        return Expiry(expires_at, wall=self.wall_clock, elapsed=self.elapsed_clock)

    def spend_token(self, user: str, channel: str, expires_at: float) -> None:
        """Note that a token ended; *channel* is empty for a connection token."""
        self.spent_tokens.add(user, channel, expires_at, self.wall_clock())

    def is_spent(self, user: str, channel: str, expires_at: float | None) -> bool:
        """Return whether a valid token with these claims has ended before on this node."""
        return self.spent_tokens.include(user, channel, expires_at, self.wall_clock())
