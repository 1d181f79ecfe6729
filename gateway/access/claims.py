"""The claims of a token whose signature is valid, checked: claims in, an identity out; no I/O, no clock."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway import defaults
from gateway.access.keys import TokenError
from protocol.channels import is_channel_name, personal_user
from protocol.errors import BadRequest, ErrorCode
from protocol.payload import check_value

Claims = Mapping[str, Any]

USER_SIZE = 128
"""Characters in a user's name."""
INFO_SIZE = 4 * 1024
"""Bytes of `info` as JSON: `info` is sent to every subscriber of a channel with presence."""
INFO_DEPTH = 32
"""Levels of arrays and maps in `info`, which is nested in other messages."""
MAX_CHANNELS = 1_000
"""Entries in `channels`, as in the `subs` of a `connect`."""
TOKEN_ID_SIZE = 256
"""Characters in a `jti`."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Identity:
    """The user of a connection; `expires_at` in Unix seconds, `channels` to join, `info` for presence."""

    user: str
    expires_at: float | None
    info: Any | None = None
    channels: tuple[str, ...] = ()
    token_id: str | None = None
    issued_at: float | None = None
    """Unix seconds; None for a token without `iat`."""


@dataclass(frozen=True, slots=True)
class ChannelToken:
    """Permission for one user to subscribe to one channel; `expires_at` in Unix seconds."""

    user: str
    channel: str
    expires_at: float | None
    info: Any | None = None
    issued_at: float | None = None
    """Unix seconds; None for a token without `iat`."""


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """What claims are checked against; times in seconds.

    *leeway* is how far the issuer's clock may be ahead of ours. It applies to `nbf`, `iat` and the latest
    possible `exp`, and never extends a token's validity. *max_ttl* limits how far ahead `exp` may lie. If
    *audience* or *issuer* is None, that claim is not checked.
    """

    audience: str | None = None
    issuer: str | None = None
    leeway: float = defaults.LEEWAY_SECONDS
    max_ttl: float = defaults.TOKEN_MAX_TTL_SECONDS


def identity_of(claims: Claims, *, now: float, rules: ClaimRules) -> Identity:
    """Return the identity in the claims of a connection token at *now*; `TokenError` for a wrong claim."""
    if "channel" in claims:
        raise TokenError(
            "this is a channel token (it has `channel`), expected a connection token: send it in `subscribe`"
        )
    user = _user(claims)
    expires_at = _expiry(claims, now, rules)
    _check_audience_and_issuer(claims, rules)
    return Identity(
        user,
        expires_at,
        _info(claims),
        _channels(claims, user),
        _token_id(claims),
        _time(claims, "iat"),
    )


def channel_token_of(claims: Claims, *, now: float, rules: ClaimRules) -> ChannelToken:
    """Return the permission in the claims of a channel token at *now*; `TokenError` for a wrong claim."""
    if "channel" not in claims:
        raise TokenError(
            "this is a connection token (it has no `channel`), expected a channel token: send it in `connect`"
        )
    channel = claims["channel"]
    if not isinstance(channel, str) or not is_channel_name(channel):
        raise _wrong_claim("channel", channel, "the name of a channel")
    user = _user(claims)
    expires_at = _expiry(claims, now, rules)
    _check_audience_and_issuer(claims, rules)
    return ChannelToken(user, channel, expires_at, _info(claims), _time(claims, "iat"))


def _user(claims: Claims) -> str:
    user = claims.get("sub")
    if not isinstance(user, str) or not 0 < len(user) <= USER_SIZE or _CONTROL.search(user):
        raise _wrong_claim("sub", user, f"the user: 1 to {USER_SIZE} characters without control characters")
    return user


def _expiry(claims: Claims, now: float, rules: ClaimRules) -> float:
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise TokenError("claim exp is missing, expected when the token ends, in Unix seconds")
    if expires_at <= now:
        raise TokenError(
            f"the token expired {now - expires_at:.0f} s ago: fetch a new one", code=ErrorCode.TOKEN_EXPIRED
        )
    if expires_at > now + rules.max_ttl + rules.leeway:
        raise _wrong_claim(
            "exp",
            claims["exp"],
            f"Unix seconds, at most {rules.max_ttl:.0f} s ahead: mint a shorter-lived one",
        )
    for name in ("nbf", "iat"):
        starts_at = _time(claims, name)
        if starts_at is not None and starts_at > now + rules.leeway:
            raise TokenError(
                f"claim {name} lies {starts_at - now:.0f} s ahead: wait, or set the issuer's clock"
            )
    return expires_at


def _time(claims: Claims, name: str) -> float | None:
    """Return a NumericDate (RFC 7519 section 2), which may have a fraction; None if it is absent."""
    value = claims.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _wrong_claim(name, value, "a number of Unix seconds")
    return float(value)


def _check_audience_and_issuer(claims: Claims, rules: ClaimRules) -> None:
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if rules.audience is not None and rules.audience not in audiences:
        raise _wrong_claim("aud", audience, f"{rules.audience!r}, or a list with it")
    if rules.issuer is not None and claims.get("iss") != rules.issuer:
        raise _wrong_claim("iss", claims.get("iss"), repr(rules.issuer))


def _channels(claims: Claims, user: str) -> tuple[str, ...]:
    """Return the `channels` in their order, each once; `TokenError` for another user's personal channel."""
    channels = claims.get("channels")
    if channels is None:
        return ()
    if not isinstance(channels, list) or len(channels) > MAX_CHANNELS:
        raise _wrong_claim("channels", channels, f"a list of at most {MAX_CHANNELS} channels")
    for channel in channels:
        if not isinstance(channel, str) or not is_channel_name(channel):
            raise _wrong_claim("channels", channel, "the names of channels in it")
        if personal_user(channel) not in (None, user):
            raise _wrong_claim("channels", channel, "no personal channel but the user's own")
    return tuple(dict.fromkeys(channels))


def _info(claims: Claims) -> Any | None:
    info = claims.get("info")
    if info is None:
        return None
    try:
        check_value(info, INFO_DEPTH)
        size = len(orjson.dumps(info))
    except (BadRequest, TypeError, ValueError) as error:
        raise _wrong_claim("info", info, f"what JSON can carry ({error})") from None
    if size > INFO_SIZE:
        raise TokenError(
            f"claim info is too large, expected at most {INFO_SIZE} bytes of JSON: leave some of it out"
        )
    return info


def _token_id(claims: Claims) -> str | None:
    token_id = claims.get("jti")
    if token_id is not None and not (isinstance(token_id, str) and len(token_id) <= TOKEN_ID_SIZE):
        raise _wrong_claim("jti", token_id, f"a string of at most {TOKEN_ID_SIZE} characters")
    return token_id


_SHOWN_CHARACTERS: Final = 80


def _wrong_claim(claim: str, value: object, expected: str) -> TokenError:
    shown = "missing" if value is None else repr(value)
    return TokenError(f"claim {claim} is {shown[:_SHOWN_CHARACTERS]}, expected {expected}")
