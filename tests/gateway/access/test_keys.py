from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gateway.access.keys import (
    Algorithm,
    Key,
    StaticKeys,
    jwk_key,
    private_key,
    public_key,
    public_key_file,
    secret_keys,
)
from gateway.access.tokens import mint
from tests.gateway.access.signing import (
    HS256,
    NOW,
    PAIRS,
    PRIVATE,
    PUBLIC,
    SECRET,
    claims,
    forged,
    rejected,
    run_without_waiting,
    verifier,
)


@pytest.mark.parametrize("alg", PAIRS)
def test_a_key_is_read_from_a_file(alg: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text(PUBLIC[alg])
    assert public_key_file(path).alg == alg


def test_a_file_without_a_key_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"auth\.public_key_file .*missing\.pem"):
        public_key_file(tmp_path / "missing.pem")
    broken = tmp_path / "broken.pem"
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"broken\.pem"):
        public_key_file(broken)


@pytest.mark.parametrize(
    ("secret", "algorithm", "expected"),
    [
        ("", None, "has 0 bytes, expected at least 16"),
        ("fifteen bytes !", None, "openssl rand"),
        (PUBLIC["RS256"], None, "put a public key into auth.public_key"),
        (SECRET, "RS256", "not RS256"),
    ],
)
def test_a_weak_secret_is_an_error(secret: str, algorithm: Algorithm | None, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        secret_keys(secret, algorithm=algorithm)


@pytest.mark.parametrize(
    ("pem", "algorithm", "expected"),
    [
        ("", None, "holds no PEM"),
        (SECRET, None, "holds no PEM"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", None, "no legible key"),
        (PRIVATE["RS256"], None, "openssl pkey -pubout"),
        (PUBLIC["RS256"], "ES256", "for RS256, not ES256"),
        (PUBLIC["RS256"], "HS256", "for RS256, not HS256"),
        (RSAKey.generate_key(2048).as_pem(private=True).decode(), None, "private key"),
        (ECKey.generate_key("P-384").as_pem(private=False).decode(), None, "neither P-256"),
        (OKPKey.generate_key("X25519").as_pem(private=False).decode(), None, "nor Ed25519"),
    ],
)
def test_an_unusable_key_is_an_error(pem: str, algorithm: Algorithm | None, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        public_key(pem, algorithm=algorithm)


def test_a_short_rsa_key_is_an_error() -> None:
    # 1,024 bits, from a published example: making one would warn.
    pem = (
        "-----BEGIN PUBLIC KEY-----\n"
        "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDdlatRjRjogo3WojgGHFHYLugd\n"
        "UWAY9iR3fy4arWNA1KoS8kVw33cJibXr8bvwUAUparCwlvdbH6dvEOfou0/gCFQs\n"
        "HUfQrSDv+MuSUMAe8jzKE4qW+jK+xQU9a03GUnKHkkle+Q0pX/g6jXZ7r1/xAK5D\n"
        "o2kQ+X5xK9cipRgEKwIDAQAB\n"
        "-----END PUBLIC KEY-----\n"
    )
    with pytest.raises(ValueError, match="1024 bits, expected at least 2048"):
        public_key(pem)


def test_keys_are_selected_by_algorithm_and_kid() -> None:
    old, new = (Key("HS256", OctKey.import_key(f"{n} {SECRET}"), kid=n) for n in ("old", "new"))
    both = verifier(old, new, public_key(PUBLIC["RS256"]))
    for key in (old, new):
        assert run_without_waiting(both.identity(mint(key, user="ann", ttl=60, now=NOW))).user == "ann"
    for kid in ({}, {"kid": "older"}):
        rejected(both.identity(forged({"alg": "HS256", **kid}, claims(), secret=f"old {SECRET}")))
    assert (
        run_without_waiting(
            both.identity(mint(private_key(PRIVATE["RS256"]), user="ann", ttl=60, now=NOW))
        ).user
        == "ann"
    )


def test_two_keys_with_the_same_algorithm_and_kid_are_an_error() -> None:
    with pytest.raises(ValueError, match="two HS256 keys"):
        StaticKeys([*secret_keys(SECRET), *secret_keys(f"{SECRET}!")])
    with pytest.raises(ValueError, match=r"auth\.secret"):
        StaticKeys([])


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": 7},
        {"kty": "RSA"},
        {"kty": "RSA", "n": 7, "e": "AQAB"},
        {"kty": "RSA", "n": "!", "e": "AQAB"},
        {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
        {**PAIRS["RS256"].as_dict(private=False), "use": "enc"},
        {**PAIRS["RS256"].as_dict(private=False), "alg": "PS256"},
        {**PAIRS["RS256"].as_dict(private=False), "alg": "HS256"},
        {**PAIRS["RS256"].as_dict(private=False), "key_ops": ["encrypt"]},
        {**PAIRS["RS256"].as_dict(private=False), "key_ops": 7},
        {**PAIRS["RS256"].as_dict(private=False), "kid": 7},
    ],
)
def test_an_unusable_jwk_is_an_error(jwk: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (a row each, in words of its own)
        jwk_key(jwk)


def test_repr_does_not_show_the_key() -> None:
    shown = f"{HS256!r} {StaticKeys([HS256])!r} {verifier()!r}"
    assert "HS256" in shown
    assert SECRET not in shown
