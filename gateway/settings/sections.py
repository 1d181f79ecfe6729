"""The sections of the settings: every key of gateway.toml, its type, bounds and default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from gateway.access import keys
from gateway.access.permissions import Audience, OnSlow, PublishAudience
from gateway.settings import units
from gateway.settings.units import Count, Host, Period, Port, Positive, Rate, Seconds, Size

NAMESPACE = re.compile(r"[A-Za-z0-9_.~-]{1,64}")
"""The grammar of a namespace's name: that of a channel's, without `:`, which ends it, and `@`, a user's."""

PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""The grammar of what our keys in Redis start with: no colon, which ends it, and no brace of a Cluster's."""


class Section(BaseModel):
    """One table of the file; a key that it does not name is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _node_name(value: str) -> str:
    if value and not NAMESPACE.fullmatch(value):
        raise units.unfit("not a node's name", "use up to 64 of A-Z a-z 0-9 _ . ~ -")
    return value


class Node(Section):
    """This process among its peers."""

    name: Annotated[str, AfterValidator(_node_name)] = ""
    workers: Positive = 1


class PublicListener(Section):
    """Where clients connect."""

    host: Host = "127.0.0.1"
    port: Port = 8000
    allowed_origins: units.Origins = ()
    trusted_proxies: units.Networks = ()
    listeners: Annotated[Positive, Field(le=64)] = 8
    backlog: Positive = 4096
    header_timeout: Period = 5.0
    send_buffer: Size = 16 * 1024
    user_timeout: Period = 20.0


class InternalListener(Section):
    """Where backends push, and operators look."""

    host: Host = "127.0.0.1"
    port: Port = 8001
    listeners: Annotated[Positive, Field(le=64)] = 1
    backlog: Positive = 1024
    body_size: Size = 4 * 1024 * 1024


class Listen(Section):
    """Both listeners; one process has both."""

    public: PublicListener = PublicListener()
    internal: InternalListener = InternalListener()


class Auth(Section):
    """Whose tokens are believed."""

    secret: SecretStr = SecretStr("")
    algorithm: Literal["auto", "HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"] = "auto"
    public_key: str = ""
    public_key_file: str = ""
    jwks_url: str = ""
    audience: str = ""
    issuer: str = ""
    anonymous: bool = False
    leeway: Seconds = 5.0
    max_ttl: Annotated[Period, Field(le=86_400)] = 86_400.0

    def key_sources(self) -> list[str]:
        """Return the names of the keys that say how tokens are verified; one of them is right."""
        given = {
            "secret": self.secret.get_secret_value(),
            "public_key": self.public_key,
            "public_key_file": self.public_key_file,
            "jwks_url": self.jwks_url,
        }
        return [name for name, value in given.items() if value]

    def static_keys(self) -> tuple[keys.Key, ...]:
        """Return the keys that stand here or in the file named here; none where all come from `jwks_url`.

        `ValueError` for one that is too weak, illegible, or not for `algorithm`. With "auto", a secret serves
        HS256, HS384 and HS512, and a public key the algorithm of its type.
        """
        algorithm = None if self.algorithm == "auto" else self.algorithm
        if secret := self.secret.get_secret_value():
            return keys.secret_keys(secret, algorithm=algorithm)
        if self.public_key:
            return (keys.public_key(self.public_key, algorithm=algorithm),)
        if self.public_key_file:
            return (keys.public_key_file(Path(self.public_key_file), algorithm=algorithm),)
        return ()


class Push(Section):
    """Who may call the internal API."""

    keys: units.Secrets = ()
    idempotency_ttl: Period = 300.0


def _prefix(value: str) -> str:
    if not PREFIX.fullmatch(value):
        raise units.unfit("not a prefix of keys", "use 1 to 64 of A-Z a-z 0-9 _ . -")
    return value


class Broker(Section):
    """What carries messages between nodes."""

    kind: Literal["memory", "redis"] = "memory"
    url: units.Address = units.Address("")
    urls: units.Addresses = ()
    cluster: bool = False
    cluster_shards: Annotated[Positive, Field(le=256)] = 12
    username: str = ""
    password: SecretStr = SecretStr("")
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    acknowledge: Literal["stored", "replicated"] = "stored"
    prefix: Annotated[str, AfterValidator(_prefix)] = "fanway"
    shards_per_server: Annotated[Positive, Field(le=64)] = 1
    lease: Annotated[Period, Field(ge=1)] = 10.0
    beat: Seconds = 0.0
    linger: Seconds = 3.0
    memory: Size = 256 * 1024 * 1024
    meta_ttl: Period = 3_600.0

    def addresses(self) -> tuple[str, ...]:
        """Return the URLs of the broker's servers, from `urls` or `url`."""
        every = self.urls or (self.url,)
        return tuple(text for address in every if (text := address.get_secret_value()))


class Namespace(Section):
    """The rules of the channels of one namespace."""

    subscribe: Audience = "authenticated"
    publish: PublishAudience = "nobody"
    history: Count = 0
    history_ttl: Period = 300.0
    presence: bool = False
    join_leave: bool = False
    on_slow: OnSlow = "catch_up"

    def over(self, base: Namespace) -> Namespace:
        """Return *base* with the keys that were set here."""
        return base.model_copy(update={key: getattr(self, key) for key in self.model_fields_set})


class Channels(Section):
    """The rules of channels: `default`, and a table for each namespace, which starts from it."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Namespace]

    strict: bool = False
    default: Namespace = Namespace()

    def named(self) -> dict[str, Namespace]:
        """Return what was written for each namespace other than `default`."""
        return dict(self.__pydantic_extra__)


class Heartbeat(Section):
    """How a silent peer is found out."""

    interval: Period = 25.0
    grace: Period = 10.0


class Outbox(Section):
    """What may wait for one connection."""

    size: Size = 1024 * 1024
    high_water: Size = 64 * 1024
    low_water: Size = 16 * 1024
    stall_timeout: Period = 20.0
    catch_up_batch: Positive = 128


class Costs(Section):
    """What each command takes from a connection's rate."""

    connect: Count = 1
    subscribe: Count = 2
    unsubscribe: Count = 1
    publish: Count = 1
    presence: Count = 4
    history: Count = 4
    refresh: Count = 4
    ping: Count = 1


class Limits(Section):
    """The bounds that protect the gateway and its clients from any one of them."""

    message_size: Size = 64 * 1024
    channels_per_connection: Positive = 128
    commands_per_second: Rate = 50.0
    command_burst: Positive = 200
    costs: Costs = Costs()
    strikes: Positive = 20
    connections: Count = 0
    connections_per_user: Count = 100
    per_user_policy: Literal["refuse", "replace"] = "refuse"
    connections_per_address: Count = 10_000
    connects_per_second: Rate = 10_000.0
    connect_timeout: Period = 5.0
    history_reply: Positive = 1_000
    presence_reply: Positive = 1_000
    rewind: Count = 100


class Drain(Section):
    """How a node leaves."""

    timeout: Seconds = 30.0
    window: Seconds = 10.0


class Log(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
