"""The rules of channels, and who may subscribe, publish and read under them; no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gateway import defaults
from gateway.access.claims import ChannelToken
from gateway.errors import Rejection
from protocol.channels import namespace_of, personal_user
from protocol.errors import ClientFault, ErrorCode

SubscribeRule = Literal["anyone", "authenticated", "token", "nobody"]
PublishRule = Literal["nobody", "subscribers", "authenticated", "anyone"]
OnSlow = Literal["catch_up", "conflate", "drop_oldest", "disconnect"]

DEFAULT_NAMESPACE = "default"
"""The namespace of channels that belong to no other one (docs/configuration.md#channels)."""


@dataclass(frozen=True, slots=True)
class ChannelRules:
    """What clients may do in the channels of a namespace, and what is kept; times in seconds."""

    namespace: str
    subscribe: SubscribeRule = "authenticated"
    publish: PublishRule = "nobody"
    history: int = 0
    history_ttl: float = 300.0
    presence: bool = False
    presence_grace: float = defaults.PRESENCE_GRACE_SECONDS
    join_leave: bool = False
    on_slow: OnSlow = "catch_up"

    @property
    def effective_on_slow(self) -> OnSlow:
        """The policy for slow subscribers: `catch_up` needs history, and is `drop_oldest` without it."""
        return "drop_oldest" if self.on_slow == "catch_up" and not self.history else self.on_slow


class UnknownChannel(ClientFault):
    """The channel's namespace is not configured, and `strict = true` forbids to fall back on the default."""

    def __init__(self, channel: str, namespace: str) -> None:
        super().__init__(
            ErrorCode.UNKNOWN_CHANNEL,
            f"channel {channel!r} is of no configured namespace: use another, or add [channels.{namespace}]",
        )


class Namespaces:
    """The rules of every channel, by the part of its name before the first colon."""

    __slots__ = ("_default", "_rules", "_strict")

    def __init__(self, rules: Mapping[str, ChannelRules], *, strict: bool = False) -> None:
        """Use the *rules* of each namespace; `ValueError` if those of `default` are missing."""
        if DEFAULT_NAMESPACE not in rules:
            raise ValueError(
                f"no rules for the namespace {DEFAULT_NAMESPACE!r}: every other one falls back on them"
            )
        self._rules = dict(rules)
        self._default = self._rules[DEFAULT_NAMESPACE]
        self._strict = strict

    def __repr__(self) -> str:
        return f"<Namespaces {', '.join(sorted(self._rules))}{' strict' if self._strict else ''}>"

    def rules(self, channel: str) -> ChannelRules:
        """Return the rules of *channel*; `UnknownChannel` for an unconfigured namespace in strict mode.

        A personal channel has the default's, whatever colons its user's name contains.
        """
        namespace = namespace_of(channel)
        if namespace is None:
            return self._default
        found = self._rules.get(namespace)
        if found is not None:
            return found
        if self._strict:
            raise UnknownChannel(channel, namespace)
        return self._default


def may_subscribe(
    rules: ChannelRules,
    *,
    user: str,
    channel: str,
    channel_token: ChannelToken | None,
) -> Rejection | None:
    """Return None if *user* may subscribe to *channel* by a command, else the rejection.

    *user* is empty for an anonymous connection, *channel_token* is verified already. A token for another user
    or channel is ignored. Subscriptions that the server makes, and those that the connection's token names,
    are not checked here: under the rule `nobody`, no others are possible.
    """
    owner = personal_user(channel)
    if owner is not None:
        return None if owner == user else _not_the_user(channel)
    rule = rules.subscribe
    if rule == "anyone" or (rule == "authenticated" and user):
        return None
    if rule != "nobody" and _token_allows(channel_token, user, channel):
        return None
    return _forbidden(rules, "subscribe", channel, _SUBSCRIBE_REMEDY[rule])


def may_publish(rules: ChannelRules, *, user: str, subscribed: bool, channel: str = "") -> Rejection | None:
    """Return None if *user* may publish under *rules*, else the rejection, which names *channel*."""
    owner = personal_user(channel)
    if owner is not None and owner != user:
        return Rejection(
            ErrorCode.PERMISSION_DENIED,
            f"channel {channel!r} is personal: only backends and its own user publish",
        )
    rule = rules.publish
    if rule == "anyone" or (rule == "authenticated" and user) or (rule == "subscribers" and subscribed):
        return None
    return _forbidden(rules, "publish", channel, _PUBLISH_REMEDY[rule])


def may_read(rules: ChannelRules, *, subscribed: bool, channel: str = "") -> Rejection | None:
    """Return None if history and presence may be read, which requires a subscription, else the rejection."""
    if subscribed:
        return None
    return Rejection(
        ErrorCode.NOT_SUBSCRIBED,
        f"{_described(rules, channel)}: only its subscribers read history and presence; subscribe first",
    )


_SUBSCRIBE_REMEDY: dict[SubscribeRule, str] = {
    "nobody": "only the server subscribes clients here",
    "token": "send a channel token for this user and channel in `subscribe`",
    "authenticated": "connect with a token",
}
_PUBLISH_REMEDY: dict[PublishRule, str] = {
    "nobody": "publish through the push API",
    "subscribers": "subscribe first",
    "authenticated": "connect with a token",
}


def _token_allows(token: ChannelToken | None, user: str, channel: str) -> bool:
    return token is not None and token.channel == channel and token.user == user


def _not_the_user(channel: str) -> Rejection:
    return Rejection(
        ErrorCode.PERMISSION_DENIED,
        f"channel {channel!r} is personal: only its own user is subscribed to it, from connect on",
    )


def _forbidden(
    rules: ChannelRules, key: Literal["subscribe", "publish"], channel: str, remedy: str
) -> Rejection:
    rule = getattr(rules, key)
    return Rejection(
        ErrorCode.PERMISSION_DENIED, f'{_described(rules, channel)} has {key} = "{rule}": {remedy}'
    )


def _described(rules: ChannelRules, channel: str) -> str:
    return (
        f"channel {channel!r} of namespace {rules.namespace!r}"
        if channel
        else f"namespace {rules.namespace!r}"
    )
