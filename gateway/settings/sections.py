"""The sections of the settings: every key of gateway.toml, with its type, limits and default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from gateway import defaults
from gateway.access import keys
from gateway.access.permissions import ChannelRules, OnSlow, PublishRule, SubscribeRule
from gateway.settings import units
from gateway.settings.units import Count, Host, Period, Port, Positive, Rate, Seconds, Size
from protocol import limits

NAMESPACE_PATTERN = re.compile(r"[A-Za-z0-9_.~-]{1,64}")
"""A namespace's name: as a channel's, without `:`, which ends it, and `@`, which begins a personal one."""

PREFIX_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""The prefix of keys in Redis: no colon, which ends it, and no braces, which a Cluster interprets."""


class Section(BaseModel):
    """One table of the file; keys that are not fields of it are faults."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _node_name(value: str) -> str:
    if value and not NAMESPACE_PATTERN.fullmatch(value):
        raise units.invalid("not a node's name", "use up to 64 of A-Z a-z 0-9 _ . ~ -")
    return value


class NodeSettings(Section):
    """This process and its workers."""

    name: Annotated[str, AfterValidator(_node_name)] = ""
    workers: Positive = 1


class PublicListenerSettings(Section):
    """The listener for clients."""

    host: Host = "127.0.0.1"
    port: Port = 8000
    allowed_origins: units.Origins = ()
    trusted_proxies: units.Networks = ()
    listeners: Annotated[Positive, Field(le=64)] = 8
    backlog: Positive = 4096
    header_timeout: Period = defaults.HEADER_TIMEOUT_SECONDS
    send_buffer: Size = 16 * 1024
    user_timeout: Period = 20.0


class InternalListenerSettings(Section):
    """The listener for backends and operators."""

    host: Host = "127.0.0.1"
    port: Port = 8001
    listeners: Annotated[Positive, Field(le=64)] = 1
    backlog: Positive = defaults.LISTEN_BACKLOG
    body_size: Size = defaults.BODY_SIZE_BYTES


class ListenSettings(Section):
    """Both listeners of a process."""

    public: PublicListenerSettings = PublicListenerSettings()
    internal: InternalListenerSettings = InternalListenerSettings()


class AuthSettings(Section):
    """How tokens are verified."""

    secret: SecretStr = SecretStr("")
    algorithm: Literal["auto", "HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"] = "auto"
    public_key: str = ""
    public_key_file: str = ""
    jwks_url: str = ""
    audience: str = ""
    issuer: str = ""
    anonymous: bool = False
    leeway: Seconds = defaults.LEEWAY_SECONDS
    max_ttl: Annotated[Period, Field(le=86_400)] = defaults.TOKEN_MAX_TTL_SECONDS

    def key_sources(self) -> list[str]:
        """Return the names of the keys that say how tokens are verified; one of them must be set."""
        given = {
            "secret": self.secret.get_secret_value(),
            "public_key": self.public_key,
            "public_key_file": self.public_key_file,
            "jwks_url": self.jwks_url,
        }
        return [name for name, value in given.items() if value]

    def static_keys(self) -> tuple[keys.Key, ...]:
        """Return the keys of this section or of the file that it names; none where they come from `jwks_url`.

        `ValueError` for a key that is too weak, malformed, or not for `algorithm`. With "auto", a secret is
        for HS256, HS384 and HS512, and a public key for the algorithm of its type.
        """
        algorithm = None if self.algorithm == "auto" else self.algorithm
        if secret := self.secret.get_secret_value():
            return keys.secret_keys(secret, algorithm=algorithm)
        if self.public_key:
            return (keys.public_key(self.public_key, algorithm=algorithm),)
        if self.public_key_file:
            return (keys.public_key_file(Path(self.public_key_file), algorithm=algorithm),)
        return ()


class PushSettings(Section):
    """Who may call the push API."""

    keys: units.Secrets = ()
    idempotency_ttl: Period = defaults.IDEMPOTENCY_TTL_SECONDS


def _prefix(value: str) -> str:
    if not PREFIX_PATTERN.fullmatch(value):
        raise units.invalid("not a prefix of keys", "use 1 to 64 of A-Z a-z 0-9 _ . -")
    return value


class BrokerSettings(Section):
    """The broker between nodes."""

    kind: Literal["memory", "redis"] = "memory"
    url: units.Address = units.Address("")
    urls: units.Addresses = ()
    cluster: bool = False
    cluster_shards: Annotated[Positive, Field(le=256)] = defaults.CLUSTER_SHARDS
    username: str = ""
    password: SecretStr = SecretStr("")
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    acknowledge: Literal["stored", "replicated"] = "stored"
    prefix: Annotated[str, AfterValidator(_prefix)] = defaults.REDIS_PREFIX
    shards_per_server: Annotated[Positive, Field(le=64)] = defaults.SHARDS_PER_SERVER
    lease: Annotated[Period, Field(ge=1)] = defaults.LEASE_SECONDS
    beat: Seconds = defaults.BEAT_SECONDS
    linger: Seconds = defaults.UNROUTE_DELAY_SECONDS
    memory: Size = defaults.MEMORY_BYTES
    meta_ttl: Period = defaults.POSITION_TTL_SECONDS

    def addresses(self) -> tuple[str, ...]:
        """Return the URLs of the broker's servers, from `urls` or `url`."""
        every = self.urls or (self.url,)
        return tuple(text for address in every if (text := address.get_secret_value()))


_RULES = ChannelRules(namespace="default")
"""The rules of channels without any configuration."""


class NamespaceSettings(Section):
    """The rules of the channels of one namespace."""

    subscribe: SubscribeRule = _RULES.subscribe
    publish: PublishRule = _RULES.publish
    history: Count = _RULES.history
    history_ttl: Period = _RULES.history_ttl
    presence: bool = _RULES.presence
    join_leave: bool = _RULES.join_leave
    on_slow: OnSlow = _RULES.on_slow

    def over(self, base: NamespaceSettings) -> NamespaceSettings:
        """Return *base*, overwritten by the keys that are set in this namespace."""
        return base.model_copy(update={key: getattr(self, key) for key in self.model_fields_set})


class ChannelsSettings(Section):
    """The rules of channels: `default`, and a table for each namespace, which inherits from it."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, NamespaceSettings]

    strict: bool = False
    default: NamespaceSettings = NamespaceSettings()

    def named(self) -> dict[str, NamespaceSettings]:
        """Return the table of each namespace other than `default`."""
        return dict(self.__pydantic_extra__)


class HeartbeatSettings(Section):
    """How a dead connection is detected."""

    interval: Period = 25.0
    grace: Period = 10.0


class OutboxSettings(Section):
    """The send queue of one connection."""

    size: Size = defaults.OUTBOX_BYTES
    high_water: Size = defaults.HIGH_WATER_BYTES
    low_water: Size = defaults.LOW_WATER_BYTES
    stall_timeout: Period = defaults.STALL_TIMEOUT_SECONDS
    catch_up_batch: Positive = defaults.CATCH_UP_BATCH


class CommandCostSettings(Section):
    """What each command costs of a connection's rate."""

    connect: Count = 1
    subscribe: Count = 2
    unsubscribe: Count = 1
    publish: Count = 1
    presence: Count = 4
    history: Count = 4
    refresh: Count = 4
    ping: Count = 1


class LimitsSettings(Section):
    """Limits that protect the gateway and its clients from a single client."""

    message_size: Size = limits.MESSAGE_SIZE
    channels_per_connection: Positive = defaults.CHANNELS_PER_CONNECTION
    commands_per_second: Rate = defaults.COMMANDS_PER_SECOND
    command_burst: Positive = defaults.COMMAND_BURST
    costs: CommandCostSettings = CommandCostSettings()
    strikes: Positive = defaults.STRIKES
    connections: Count = 0
    connections_per_user: Count = 100
    per_user_policy: Literal["refuse", "replace"] = "refuse"
    connections_per_address: Count = 10_000
    connects_per_second: Rate = defaults.CONNECTS_PER_SECOND
    connect_timeout: Period = limits.CONNECT_TIMEOUT
    history_reply: Positive = limits.HISTORY_LIMIT
    presence_reply: Positive = defaults.PRESENCE_REPLY
    rewind: Count = defaults.REWIND


class DrainSettings(Section):
    """How a node shuts down."""

    timeout: Seconds = 30.0
    window: Seconds = 10.0


class LogSettings(Section):
    """Level and format of the log."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
