"""Keys of every kind, and tokens that say anything, signed with them."""

import base64
import hashlib
import hmac
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from gateway.access.keys import Key, StaticKeys, secret_keys
from gateway.access.tokens import TokenError, Verifier
from gateway.clock import FakeClock

T = TypeVar("T")
NOW = 1_700_000_000.0
SECRET = "correct horse battery staple, twice over"
HS256, HS384, HS512 = secret_keys(SECRET)
HMAC_DIGESTS = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
PAIRS: dict[str, RSAKey | ECKey | OKPKey] = {
    "RS256": RSAKey.generate_key(2048),
    "ES256": ECKey.generate_key("P-256"),
    "EdDSA": OKPKey.generate_key("Ed25519"),
}
PUBLIC = {alg: pair.as_pem(private=False).decode() for alg, pair in PAIRS.items()}
PRIVATE = {alg: pair.as_pem(private=True).decode() for alg, pair in PAIRS.items()}


def verifier(*keys: Key, audience: str | None = None, issuer: str | None = None, **other: float) -> Verifier:
    return Verifier(
        StaticKeys(keys or (HS256,)), audience=audience, issuer=issuer, clock=FakeClock(NOW), **other
    )


def run_without_waiting(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of *coroutine*, which must not wait for anything."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    pytest.fail("the coroutine waits for something")


def encoded(part: bytes | object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: object, payload: object, *, secret: str | bytes = SECRET, alg: str = "HS256") -> str:
    """Return a token with exactly this header and payload, signed with *secret*, whatever the header says."""
    signed = f"{encoded(header)}.{encoded(payload)}"
    key = secret if isinstance(secret, bytes) else secret.encode()
    return f"{signed}.{encoded(hmac.digest(key, signed.encode(), HMAC_DIGESTS[alg]))}"


def claims(**changed: Any) -> dict[str, Any]:
    """Return the claims of a good connection token, some of them changed, or left out where None."""
    whole = {"sub": "ann", "exp": NOW + 60, **changed}
    return {name: value for name, value in whole.items() if value is not None}


def token(**changed: Any) -> str:
    return forged({"alg": "HS256"}, claims(**changed))


def rejected(attempt: Coroutine[Any, Any, object]) -> TokenError:
    with pytest.raises(TokenError) as error:
        run_without_waiting(attempt)
    return error.value
