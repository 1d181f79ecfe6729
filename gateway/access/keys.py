"""Keys that tokens are verified and signed with: one algorithm each, from a secret, a PEM or a JWK.

A token's header only selects among the configured keys, by its `kid` and `alg`; the algorithm is a property
of the key. So no key verifies a token with `alg: none`, or one signed with a public key as the secret
(RFC 8725 section 3.1).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

from joserfc.errors import InvalidKeyTypeError, JoseError, SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jwk import Key as Jwk

from protocol.errors import ClientFault, ErrorCode, ServerFault

Algorithm = Literal["HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"]
ALGORITHMS: Final[frozenset[str]] = frozenset(get_args(Algorithm))
HMAC: Final[tuple[Algorithm, ...]] = ("HS256", "HS384", "HS512")

MIN_SECRET_BYTES = 16
"""128 bits (NIST SP 800-131A)."""

RECOMMENDED_SECRET_BYTES = 32
"""As long as the hash of HS256 (RFC 7518 section 3.2); a shorter secret is accepted with a warning."""

MIN_RSA_BITS = 2048
"""Bits of an RSA modulus (RFC 7518 section 3.3)."""


class TokenError(ClientFault):
    """A rejected token: `unauthorized`, or `token_expired` if the client should fetch a new one."""

    def __init__(self, message: str, *, code: ErrorCode = ErrorCode.UNAUTHORIZED) -> None:
        super().__init__(code, message)


class KeysUnavailable(ServerFault):
    """The keys cannot be fetched now; the same token may be accepted later."""

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, message, retry_after_ms=retry_after_ms)


@dataclass(frozen=True, slots=True)
class Key:
    """A key to verify or sign tokens, with its only algorithm; `repr` does not show the key itself."""

    alg: Algorithm
    jwk: Jwk = field(repr=False)
    kid: str | None = None


class KeySource(Protocol):
    """Where a `Verifier` finds keys."""

    def find(self, kid: str | None, alg: str, /) -> Key | None:
        """Return the key for a token's *kid* and *alg*, if it is known without waiting."""

    async def resolve(self, kid: str | None, alg: str, /) -> Key:
        """Return that key, fetched if necessary; raises `TokenError`, or `KeysUnavailable` if that fails."""


class StaticKeys:
    """The keys of the configuration."""

    __slots__ = ("_by_kid", "_sole_by_alg")

    def __init__(self, keys: Iterable[Key]) -> None:
        """Serve *keys*; `ValueError` without any, and for two with the same algorithm and `kid`."""
        self._by_kid, self._sole_by_alg = index_keys(keys)
        if not self._by_kid:
            raise ValueError(
                "no key to verify tokens with: set auth.secret, auth.public_key or auth.jwks_url"
            )

    def __repr__(self) -> str:
        return f"<StaticKeys {', '.join(sorted(alg for _, alg in self._by_kid))}>"

    def find(self, kid: str | None, alg: str) -> Key | None:
        """Return the key for *kid* and *alg*; a lone key without a `kid` serves any `kid` of a token."""
        return self._by_kid.get((kid, alg)) or sole_key_for(self._sole_by_alg.get(alg), kid)

    async def resolve(self, kid: str | None, alg: str) -> Key:
        """Return the key for *kid* and *alg* without waiting; `TokenError` if there is none."""
        found = self.find(kid, alg)
        if found is None:
            raise no_key_error(kid, alg)
        return found


KeyIndex = tuple[dict[tuple[str | None, str], Key], dict[str, Key]]


def index_keys(keys: Iterable[Key]) -> KeyIndex:
    """Return *keys* by (`kid`, algorithm), and those that are the only one of their algorithm by it alone."""
    by_kid: dict[tuple[str | None, str], Key] = {}
    for key in keys:
        if by_kid.setdefault((key.kid, key.alg), key) is not key:
            raise ValueError(f"two {key.alg} keys with the kid {key.kid!r}: give each its own")
    algs = [alg for _, alg in by_kid]
    return by_kid, {alg: key for (_, alg), key in by_kid.items() if algs.count(alg) == 1}


def sole_key_for(sole: Key | None, kid: str | None) -> Key | None:
    """Return *sole*, the only key of its algorithm, unless a token's *kid* is that of another key."""
    return sole if sole is not None and (kid is None or sole.kid is None) else None


def no_key_error(kid: str | None, alg: str) -> TokenError:
    """Return the error for a token with a *kid* and *alg* that no key has."""
    declared = f"kid {kid[:64]!r}" if kid is not None else "no kid"
    return TokenError(
        f"no key for a token with alg {alg!r} and {declared}; sign with a configured key and name it"
    )


def secret_keys(secret: str, *, algorithm: Algorithm | None = None) -> tuple[Key, ...]:
    """Return the HMAC keys of *secret*: a key for each of HS256, HS384 and HS512, or for *algorithm* alone.

    `ValueError` if it is shorter than `MIN_SECRET_BYTES`, or a public key: anyone could sign with that.
    """
    material = secret.encode()
    if len(material) < MIN_SECRET_BYTES:
        raise ValueError(
            f"auth.secret has {len(material)} bytes, expected at least {MIN_SECRET_BYTES}: "
            "make one with `openssl rand -hex 32`"
        )
    if b"-----BEGIN" in material:
        raise ValueError(
            "auth.secret holds a PEM, expected random text: put a public key into auth.public_key"
        )
    if algorithm is not None and algorithm not in HMAC:
        raise ValueError(f"auth.secret serves {', '.join(HMAC)}, not {algorithm}: leave auth.algorithm out")
    try:
        jwk = OctKey.import_key(material)
    except ValueError as error:
        raise ValueError(f"auth.secret is no secret: {error}") from None
    return tuple(Key(alg, jwk) for alg in (HMAC if algorithm is None else (algorithm,)))


def public_key(pem: str, *, algorithm: Algorithm | None = None, kid: str | None = None) -> Key:
    """Return the key of a *pem* with a public key or a certificate: RS256, ES256 or EdDSA, as its type says.

    `ValueError` for any other key, for a private key, and for one that is not for *algorithm*.
    """
    if "PRIVATE KEY" in pem:
        raise ValueError(
            "auth.public_key holds a private key, expected the public half: `openssl pkey -pubout`"
        )
    return _pem_key(pem, "auth.public_key", algorithm, kid)


def public_key_file(path: Path, *, algorithm: Algorithm | None = None, kid: str | None = None) -> Key:
    """Return the key of the PEM in *path*; `ValueError` as `public_key`, and if it cannot be read."""
    try:
        return public_key(path.read_text(encoding="ascii"), algorithm=algorithm, kid=kid)
    except (OSError, ValueError) as error:
        raise ValueError(f"auth.public_key_file {str(path)!r}: {error}") from None


def private_key(pem: str, *, kid: str | None = None) -> Key:
    """Return a key that signs, from the *pem* of a private key: RS256, ES256 or EdDSA, as its type says."""
    key = _pem_key(pem, "the private key", None, kid)
    if not key.jwk.is_private:
        raise ValueError("the private key holds a public key, which cannot sign: use the other half")
    return key


def jwk_key(jwk: Mapping[str, Any]) -> Key:
    """Return the public key of one member of a JWKS (RFC 7517), for the algorithm of its type.

    `ValueError` if it is not a key for signatures with RS256, ES256 or EdDSA. Symmetric keys are rejected:
    a JWKS is public, and its keys are not secret.
    """
    members = _JWK_MEMBERS.get(str(jwk.get("kty")))
    if members is None:
        raise ValueError(f"kty {jwk.get('kty')!r} is not one of {', '.join(_JWK_MEMBERS)}")
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not (isinstance(operations, list) and "verify" in operations):
        raise ValueError("it is not for verifying signatures")
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise ValueError("its kid is not a string")
    public = {name: jwk[name] for name in ("kty", *members) if name in jwk}
    return _checked_key(_import_key(public, _KEY_TYPES[public["kty"]]), kid=kid, declared=jwk.get("alg"))


_KEY_TYPES: Final[dict[str, type[RSAKey | ECKey | OKPKey]]] = {
    "RSA": RSAKey,
    "EC": ECKey,
    "OKP": OKPKey,
}
_JWK_MEMBERS: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}


def _pem_key(pem: str, source: str, algorithm: Algorithm | None, kid: str | None) -> Key:
    if "-----BEGIN" not in pem:
        raise ValueError(f"{source} holds no PEM, expected text that begins with -----BEGIN")
    for key_type in _KEY_TYPES.values():
        try:
            return _checked_key(_import_key(pem, key_type), kid=kid, declared=algorithm)
        except InvalidKeyTypeError:
            continue
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
    raise ValueError(f"{source}: expected the PEM of an RSA, EC or Ed25519 key")


def _import_key(source: str | dict[str, Any], key_type: type[RSAKey | ECKey | OKPKey]) -> Jwk:
    """Return *source* as a *key_type*; `InvalidKeyTypeError` for another type, `ValueError` if malformed."""
    with warnings.catch_warnings():
        # Weak keys are rejected by `_checked_key`; a warning is not needed.
        warnings.simplefilter("ignore", SecurityWarning)
        try:
            return key_type.import_key(source)
        except InvalidKeyTypeError:
            raise
        except (JoseError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"no legible key ({type(error).__name__})") from None


def _checked_key(jwk: Jwk, *, kid: str | None, declared: object) -> Key:
    expected = _algorithm_of(jwk)
    if declared is not None and declared != expected:
        raise ValueError(f"an {jwk.key_type} key like this one is for {expected}, not {declared}")
    return Key(expected, jwk, kid)


def _algorithm_of(jwk: Jwk) -> Algorithm:
    if isinstance(jwk, RSAKey):
        bits = jwk.public_key.key_size
        if bits < MIN_RSA_BITS:
            raise ValueError(f"an RSA key of {bits} bits, expected at least {MIN_RSA_BITS}")
        return "RS256"
    if isinstance(jwk, ECKey) and jwk.curve_name == "P-256":
        return "ES256"
    if isinstance(jwk, OKPKey) and jwk.curve_name == "Ed25519":
        return "EdDSA"
    raise ValueError("its curve is neither P-256 (ES256) nor Ed25519 (EdDSA)")
