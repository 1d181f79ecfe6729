"""Settings that are accepted with a warning."""

import pytest

from gateway.settings import Settings, load
from gateway.settings.setting_warnings import warnings

JWKS: dict[str, object] = {"auth.jwks_url": "https://keys.example.com/jwks.json", "push.keys": ["k"]}


def test_the_defaults_have_none() -> None:
    assert list(warnings(Settings())) == []
    assert list(warnings(load(None, dev=True))) == []


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "auth.audience and auth.issuer"),
        ({"auth.issuer": "https://keys.example.com/"}, "auth.audience"),
        ({"auth.audience": "chat"}, "auth.issuer"),
    ],
)
def test_keys_of_a_provider_without_audience_or_issuer_are_warned_of(
    given: dict[str, object], missing: str
) -> None:
    (warning,) = warnings(load(None, flags={**JWKS, **given}))
    assert str(warning) == (
        f"auth.jwks_url: a token that the same provider issued for another service is accepted; set {missing}"
    )


def test_keys_of_a_provider_with_audience_and_issuer_are_not_warned_of() -> None:
    given = {"auth.audience": "chat", "auth.issuer": "https://keys.example.com/"}
    assert list(warnings(load(None, flags={**JWKS, **given}))) == []
