"""Signed JSON Web Tokens (RFC 7519), verified as RFC 8725 recommends, and minted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson
from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError

from gateway import defaults
from gateway.access.claims import (
    ChannelToken,
    ClaimRules,
    Claims,
    Identity,
    channel_token_of,
    identity_of,
)
from gateway.access.keys import ALGORITHMS, Key, KeySource, KeysUnavailable, TokenError
from protocol import limits

__all__ = ["ChannelToken", "Identity", "KeysUnavailable", "TokenError", "Verifier", "mint"]


class _Registry(jws.JWSRegistry):
    """The algorithms that are accepted. The sizes must admit every part of the largest accepted token."""

    max_header_length = limits.TOKEN_SIZE
    max_payload_length = limits.TOKEN_SIZE
    max_signature_length = limits.TOKEN_SIZE

    def get_alg(self, name: str) -> Any:
        """Return the algorithm *name*, without joserfc's warning that RFC 9864 renames EdDSA."""
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError(f"{name!r} is not one of {', '.join(sorted(ALGORITHMS))}")
        return self.algorithms[name]


# Unknown header parameters must be ignored unless `crit` names them (RFC 7515 section 4).
_REGISTRY: Final = _Registry(strict_check_header=False)


class Verifier:
    """Verifies tokens: the signature first, then the claims; errors never contain the token."""

    __slots__ = ("_clock", "_keys", "_rules")

    def __init__(
        self,
        keys: KeySource,
        *,
        audience: str | None,
        issuer: str | None,
        clock: Callable[[], float],
        leeway: float = defaults.LEEWAY_SECONDS,
        max_ttl: float = defaults.TOKEN_MAX_TTL_SECONDS,
    ) -> None:
        """Verify signatures with *keys*, and claims as `ClaimRules` says; *clock* returns Unix seconds."""
        self._keys = keys
        self._clock = clock
        self._rules = ClaimRules(audience=audience, issuer=issuer, leeway=leeway, max_ttl=max_ttl)

    def __repr__(self) -> str:
        return f"<Verifier {self._keys!r} audience={self._rules.audience!r} issuer={self._rules.issuer!r}>"

    async def identity(self, token: str) -> Identity:
        """Return the identity in a connection token.

        Waits only if a key must be fetched first.

        Raises:
            TokenError: The token is not valid.
            KeysUnavailable: Its key cannot be fetched now.
        """
        claims = await self._claims(token)
        return identity_of(claims, now=self._clock(), rules=self._rules)

    async def channel_token(self, token: str) -> ChannelToken:
        """Return the permission in a channel token; waits and raises as `identity` does."""
        claims = await self._claims(token)
        return channel_token_of(claims, now=self._clock(), rules=self._rules)

    async def _claims(self, token: str) -> Claims:
        signed = _parse(token)
        alg, kid = _algorithm_and_kid(signed)
        key = self._keys.find(kid, alg) or await self._keys.resolve(kid, alg)
        if not signature_valid(signed, key, alg):
            raise TokenError("the token's signature does not hold: sign it with the configured key")
        return _payload(signed)


def mint(
    key: Key,
    *,
    user: str,
    ttl: float,
    now: float,
    channel: str | None = None,
    channels: Sequence[str] = (),
    info: Any | None = None,
    audience: str | None = None,
    issuer: str | None = None,
    token_id: str | None = None,
) -> str:
    """Return a token for *user* that ends *ttl* seconds after *now* (Unix); with *channel*, a channel token.

    `ValueError` for a token that a verifier would reject, and if *key* cannot sign.
    """
    if not key.jwk.is_private:
        raise ValueError(f"a public {key.alg} key cannot sign: mint tokens where the private key is")
    claims = {
        "sub": user,
        "iat": math.floor(now),
        "exp": _numeric_date(now + ttl),
        "channel": channel,
        "channels": list(channels) or None,
        "info": info,
        "aud": audience,
        "iss": issuer,
        "jti": token_id,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    check = identity_of if channel is None else channel_token_of
    try:
        check(claims, now=now, rules=ClaimRules(audience=audience, issuer=issuer))
    except TokenError as error:
        raise ValueError(error.message) from None
    header = {"alg": key.alg, "typ": "JWT"} | ({} if key.kid is None else {"kid": key.kid})
    token = jws.serialize_compact(header, orjson.dumps(claims), key.jwk, registry=_REGISTRY)
    if len(token) > limits.TOKEN_SIZE:
        raise ValueError(f"the token would have {len(token)} bytes, at most {limits.TOKEN_SIZE} are accepted")
    return token


def _parse(token: str) -> jws.CompactSignature:
    if len(token) > limits.TOKEN_SIZE:
        raise TokenError(f"the token has {len(token)} characters, expected at most {limits.TOKEN_SIZE}")
    _require_form(token)
    try:
        return jws.extract_compact(token.encode(), registry=_REGISTRY)
    except (JoseError, TypeError, ValueError, RecursionError):
        raise _malformed() from None


_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")
"""JWS Compact Serialization (RFC 7515 section 7.1); base64url without padding (section 2)."""

_MISTAKES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(?i)bearer\b"), "the token begins with 'Bearer': send what follows it alone"),
    (re.compile(r"['\"]|.*['\"]\Z", re.DOTALL), "the token has quotes around it: send it without them"),
    (
        re.compile(r"(?s).*[\r\n]\Z"),
        "the token ends with a line break: remove it where the token is read (from a file, from a command)",
    ),
    (re.compile(r"(?s)\s|.*\s"), "the token has white space in it: send it in one piece, without any"),
    (re.compile(r"(?s).*="), "the token has base64 padding (=): a JWT has none (RFC 7515 section 2)"),
    (re.compile(r"(?s).*[+/]"), "the token has + or /: a JWT is in base64url, with - and _ instead"),
    (re.compile(r"(?:[^.]*\.){4}[^.]*\Z"), "the token is encrypted (five parts): send a signed one"),
)
"""What is known to happen to tokens on their way, and what to do; none of the texts repeats the token."""


def _require_form(token: str) -> None:
    """Raise `TokenError`, with what is wrong, unless *token* has the form of a signed token."""
    if _FORM.fullmatch(token) is None:
        for mistake, message in _MISTAKES:
            if mistake.match(token):
                raise TokenError(message)
        raise _malformed()


def _malformed() -> TokenError:
    return TokenError("this is no token: expected a signed JWT in its compact form, header.payload.signature")


def _algorithm_and_kid(signed: jws.CompactSignature) -> tuple[str, str | None]:
    """Return the `alg` and `kid` of the header; `TokenError` for an unknown algorithm or an extension."""
    header: object = signed.headers()
    if not isinstance(header, dict):
        raise _malformed()
    if "crit" in header or "b64" in header:
        # No extension is supported, so every critical one must be rejected (RFC 7515 section 4.1.11).
        raise TokenError("the token's header has crit or b64, expected neither: no extensions are understood")
    alg, kid = header.get("alg"), header.get("kid")
    if not isinstance(alg, str) or alg not in ALGORITHMS:
        raise TokenError(
            f"the token's alg is {str(alg)[:16]!r}, expected one of {', '.join(sorted(ALGORITHMS))}"
        )
    if kid is not None and not isinstance(kid, str):
        raise TokenError("the token's kid is not a string")
    return alg, kid


def signature_valid(signed: jws.CompactSignature, key: Key, alg: str) -> bool:
    """Return whether *key*, for *alg*, has signed *signed*; takes 30 to 150 µs, most of a verification."""
    try:
        return key.alg == alg and jws.validate_compact(signed, key.jwk, registry=_REGISTRY)
    except (JoseError, ValueError):
        return False


def _payload(signed: jws.CompactSignature) -> Claims:
    try:
        claims = orjson.loads(signed.payload)
    except orjson.JSONDecodeError:
        claims = None
    if not isinstance(claims, dict):
        raise TokenError("the token's payload is no JSON object, expected one with sub and exp")
    return claims


def _numeric_date(seconds: float) -> float:
    return int(seconds) if float(seconds).is_integer() else round(seconds, 3)
