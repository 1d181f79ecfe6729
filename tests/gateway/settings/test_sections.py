"""Keys of the section `auth` for verifying tokens."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.settings import load
from tests.gateway.settings.settings_kit import loaded


def pem() -> str:
    key = Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_a_secret_is_for_every_hmac_algorithm_unless_one_is_configured(file: Path) -> None:
    assert [key.alg for key in loaded(file, "").auth.static_keys()] == ["HS256", "HS384", "HS512"]
    assert [key.alg for key in loaded(file, 'auth.algorithm = "HS512"').auth.static_keys()] == ["HS512"]


def test_a_public_key_is_for_the_algorithm_of_its_type(file: Path, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(pem())
    for source, value in (("public_key", pem()), ("public_key_file", str(tmp_path / "key.pem"))):
        file.write_text(f"push.keys = ['k']\nauth.{source} = {json.dumps(value)}")
        assert [key.alg for key in load(file).auth.static_keys()] == ["EdDSA"]


def test_keys_at_a_url_are_not_fetched_by_the_settings(file: Path) -> None:
    file.write_text('push.keys = ["k"]\nauth.jwks_url = "https://keys.example.com/jwks.json"')
    assert load(file).auth.static_keys() == ()
