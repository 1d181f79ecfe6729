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
from gateway.settings.units import (
    DAY,
    GIB,
    HOUR,
    MIB,
    MINUTE,
    TIB,
    Amount,
    Count,
    Host,
    Period,
    Port,
    Positive,
    Rate,
    RateOrNone,
    Seconds,
    Size,
    SizeOrDefault,
)
from protocol import limits

NAMESPACE_PATTERN = re.compile(r"[A-Za-z0-9_.~-]{1,64}")
"""A namespace's name: as a channel's, without `:`, which ends it, and `@`, which begins a personal one."""

PREFIX_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""The prefix of keys in Redis: no colon, which ends it, and no braces, which a Cluster interprets."""

# ---------------------------------------------------------------- the largest values

MAX_WORKERS = 256
"""Processes: more than a machine has cores for."""

MAX_LISTENERS = 64
"""Sockets on one port: each is an entry in the event loop, and one accepts a connection per turn."""

MAX_BACKLOG = 65_535
"""Of listen(2): the kernel kept it in 16 bits until Linux 5.4, and cuts it to net.core.somaxconn."""

MAX_SEND_BUFFER = GIB - 1
"""Bytes: SO_SNDBUF is a C int, and Linux doubles the value (socket(7))."""

MAX_USER_TIMEOUT = DAY
"""setsockopt takes TCP_USER_TIMEOUT as a C int of milliseconds, which is 24.8 days. Data that was not
acknowledged for a day will not be: Linux itself gives up after 15 minutes (tcp_retries2 in tcp(7))."""

MAX_CLIENT_TIMEOUT = HOUR
"""Whatever waits for a client: a NAT may forget an idle connection after 2 h 4 min (RFC 5382 section 5)."""

MAX_HANDSHAKE_TIMEOUT = 5 * MINUTE
"""A client that has not authenticated holds a descriptor for as long (slowloris)."""

MAX_BODY_SIZE = 256 * MIB
"""Of a request, which is held in memory as a whole before it is parsed."""

MAX_LEEWAY = 10 * MINUTE
"""RFC 7519 section 4.1.4: "usually no more than a few minutes"."""

MAX_TOKEN_TTL = DAY
"""There is no list of revoked tokens: a leaked one ends within a day."""

MAX_IDEMPOTENCY_TTL = 7 * DAY
"""Each key takes memory for as long (docs/configuration.md#push); nobody repeats a publish a week later."""

MAX_PUSH_REQUESTS = 100_000
"""Requests in progress at once: each holds its body, and the pipeline to Redis holds 50,000 calls."""

MAX_PUSH_RATE = 10_000_000.0
"""Messages a second: more than a machine can publish."""

MAX_LEASE = HOUR
"""Members of a node that was killed stay in presence, and its inbox in Redis, for as long."""

MIN_BEAT = 0.1
"""Seconds between renewals: each is a script on every shard of Redis."""

MAX_PRESENCE_GRACE = MINUTE
"""For which a client that has left stays listed."""

MAX_MEMORY = TIB
"""Bytes: more than a machine has for one process."""

MAX_RETENTION = 365 * DAY
"""Of messages and positions. Redis adds it to the time of day in milliseconds, in 64 bits (PEXPIRE)."""

MAX_HISTORY = 1_000_000
"""Messages of one channel. Redis takes MAXLEN as 64 bits, and Lua's numbers are exact up to 2^53."""

MAX_QUEUE_SIZE = GIB
"""Bytes for one connection, in its outbox or in asyncio's write buffer."""

MAX_MESSAGE_SIZE = 64 * MIB
"""Bytes: parsing one stops the event loop for a second; Redis takes 512 MiB (proto-max-bulk-len)."""

MAX_MESSAGES_READ = 10_000
"""Messages or members in one read from the broker: Redis answers nobody else meanwhile."""

MAX_CHANNELS = 100_000
"""Subscriptions of one connection."""

MAX_COMMANDS = 1_000_000
"""Units of commands: more than a worker can carry out in a second."""

MAX_SHARED_BURST = 1_000_000_000
"""Units of commands at once of a user or an address: any number of connections that a worker can have."""

MAX_CONNECTIONS = 10_000_000
"""Connections of one worker; file descriptors end long before (fs.nr_open is 1,048,576 by default)."""

MAX_CONNECTS = 1_000_000
"""Handshakes in a second: more than a machine can accept."""

MAX_DRAIN = HOUR
"""Whoever stops the process (systemd, Kubernetes) must wait for as long."""


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
    workers: Annotated[Positive, Field(le=MAX_WORKERS)] = 1


class PublicListenerSettings(Section):
    """The listener for clients."""

    host: Host = "127.0.0.1"
    port: Port = 8000
    allowed_origins: units.Origins = ()
    trusted_proxies: units.Networks = ()
    proxy_protocol: bool = False
    listeners: Annotated[Positive, Field(le=MAX_LISTENERS)] = 8
    backlog: Annotated[Positive, Field(le=MAX_BACKLOG)] = 4096
    header_timeout: Annotated[Period, Field(le=MAX_HANDSHAKE_TIMEOUT)] = defaults.HEADER_TIMEOUT_SECONDS
    send_buffer: Annotated[Size, Field(le=MAX_SEND_BUFFER)] = 16 * 1024
    user_timeout: Annotated[Period, Field(le=MAX_USER_TIMEOUT)] = 20.0
    unconnected: Annotated[Positive, Field(le=MAX_CONNECTIONS)] = defaults.UNCONNECTED
    unconnected_per_address: Annotated[Count, Field(le=MAX_CONNECTIONS)] = 0


class InternalListenerSettings(Section):
    """The listener for backends and operators."""

    host: Host = "127.0.0.1"
    port: Port = 8001
    listeners: Annotated[Positive, Field(le=MAX_LISTENERS)] = 1
    backlog: Annotated[Positive, Field(le=MAX_BACKLOG)] = defaults.LISTEN_BACKLOG
    body_size: Annotated[Size, Field(le=MAX_BODY_SIZE)] = defaults.BODY_SIZE_BYTES
    keep_alive: Annotated[Period, Field(ge=1, le=MAX_CLIENT_TIMEOUT)] = 75.0
    connections: Annotated[Count, Field(le=MAX_CONNECTIONS)] = 0


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
    leeway: Annotated[Seconds, Field(le=MAX_LEEWAY)] = defaults.LEEWAY_SECONDS
    max_ttl: Annotated[Period, Field(le=MAX_TOKEN_TTL)] = defaults.TOKEN_MAX_TTL_SECONDS

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
    idempotency_ttl: Annotated[Period, Field(le=MAX_IDEMPOTENCY_TTL)] = defaults.IDEMPOTENCY_TTL_SECONDS
    concurrency: Annotated[Positive, Field(le=MAX_PUSH_REQUESTS)] = defaults.PUSH_CONCURRENCY
    rate: Annotated[units.RateOrNone, Field(le=MAX_PUSH_RATE)] = defaults.PUSH_RATE


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
    lease: Annotated[Period, Field(ge=1, le=MAX_LEASE)] = defaults.LEASE_SECONDS
    beat: Annotated[Seconds, Field(le=MAX_LEASE / 2)] = defaults.BEAT_SECONDS
    linger: Annotated[Seconds, Field(le=MAX_LEASE)] = defaults.UNROUTE_DELAY_SECONDS
    memory: Annotated[Size, Field(le=MAX_MEMORY)] = defaults.MEMORY_BYTES
    meta_ttl: Annotated[Period, Field(le=MAX_RETENTION)] = defaults.POSITION_TTL_SECONDS

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
    history: Annotated[Count, Field(le=MAX_HISTORY)] = _RULES.history
    history_ttl: Annotated[Period, Field(le=MAX_RETENTION)] = _RULES.history_ttl
    presence: bool = _RULES.presence
    presence_grace: Annotated[Seconds, Field(le=MAX_PRESENCE_GRACE)] = _RULES.presence_grace
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

    interval: Annotated[Period, Field(le=MAX_CLIENT_TIMEOUT)] = 25.0
    grace: Annotated[Period, Field(le=MAX_CLIENT_TIMEOUT)] = defaults.HEARTBEAT_GRACE_SECONDS


class OutboxSettings(Section):
    """The send queue of one connection."""

    size: Annotated[Size, Field(le=MAX_QUEUE_SIZE)] = defaults.OUTBOX_BYTES
    high_water: Annotated[Size, Field(le=MAX_QUEUE_SIZE)] = defaults.HIGH_WATER_BYTES
    low_water: Annotated[Size, Field(le=MAX_QUEUE_SIZE)] = defaults.LOW_WATER_BYTES
    stall_timeout: Annotated[Period, Field(le=MAX_CLIENT_TIMEOUT)] = defaults.STALL_TIMEOUT_SECONDS
    catch_up_batch: Annotated[Positive, Field(le=MAX_MESSAGES_READ)] = defaults.CATCH_UP_BATCH


Cost = Annotated[Count, Field(le=MAX_COMMANDS)]
PartCost = Annotated[Amount, Field(le=MAX_COMMANDS)]


class CommandCostSettings(Section):
    """What each command costs, and parts of a command, in units of the rates."""

    connect: Cost = 1
    subscribe: Cost = 2
    unsubscribe: Cost = 1
    publish: Cost = 1
    presence: Cost = 4
    history: Cost = 4
    refresh: Cost = 4
    ping: Cost = 1
    token: PartCost = defaults.TOKEN_COST
    message: PartCost = defaults.MESSAGE_COST
    member: PartCost = defaults.MEMBER_COST

    def of_commands(self) -> dict[str, float]:
        """Return the cost of each command, without what its parts cost."""
        return self.model_dump(exclude={"token", "message", "member"})


class LimitsSettings(Section):
    """Limits that protect the gateway and its clients from a single client."""

    message_size: Annotated[Size, Field(le=MAX_MESSAGE_SIZE)] = limits.MESSAGE_SIZE
    channels_per_connection: Annotated[Positive, Field(le=MAX_CHANNELS)] = defaults.CHANNELS_PER_CONNECTION
    commands_per_second: Annotated[Rate, Field(le=MAX_COMMANDS)] = defaults.COMMANDS_PER_SECOND
    command_burst: Annotated[Positive, Field(le=MAX_COMMANDS)] = defaults.COMMAND_BURST
    user_commands_per_second: Annotated[RateOrNone, Field(le=MAX_COMMANDS)] = (
        defaults.USER_COMMANDS_PER_SECOND
    )
    user_command_burst: Annotated[Positive, Field(le=MAX_SHARED_BURST)] = defaults.USER_COMMAND_BURST
    address_commands_per_second: Annotated[RateOrNone, Field(le=MAX_COMMANDS)] = (
        defaults.ADDRESS_COMMANDS_PER_SECOND
    )
    address_command_burst: Annotated[Positive, Field(le=MAX_SHARED_BURST)] = defaults.ADDRESS_COMMAND_BURST
    costs: CommandCostSettings = CommandCostSettings()
    strikes: Annotated[Positive, Field(le=MAX_COMMANDS)] = defaults.STRIKES
    connections: Annotated[Count, Field(le=MAX_CONNECTIONS)] = 0
    connections_per_user: Annotated[Count, Field(le=MAX_CONNECTIONS)] = 100
    per_user_policy: Literal["refuse", "replace"] = "refuse"
    connections_per_address: Annotated[Count, Field(le=MAX_CONNECTIONS)] = 10_000
    connects_per_second: Annotated[Rate, Field(le=MAX_CONNECTS)] = defaults.CONNECTS_PER_SECOND
    connect_timeout: Annotated[Period, Field(le=MAX_HANDSHAKE_TIMEOUT)] = limits.CONNECT_TIMEOUT
    history_reply: Annotated[Positive, Field(le=MAX_MESSAGES_READ)] = limits.HISTORY_LIMIT
    presence_reply: Annotated[Positive, Field(le=MAX_MESSAGES_READ)] = defaults.PRESENCE_REPLY
    rewind: Annotated[Count, Field(le=MAX_MESSAGES_READ)] = defaults.REWIND
    memory: Annotated[SizeOrDefault, Field(le=MAX_MEMORY)] = 0


class DrainSettings(Section):
    """How a node shuts down."""

    timeout: Annotated[Seconds, Field(le=MAX_DRAIN)] = 30.0
    window: Annotated[Seconds, Field(le=MAX_DRAIN)] = 10.0


class LogSettings(Section):
    """Level and format of the log."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
