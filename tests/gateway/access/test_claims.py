from typing import Any

import pytest

from tests.gateway.access.signing import NOW, rejected, run_without_waiting, token, verifier

# A thousand and one of the shortest: a token is too small for long ones.
NAMES = [f"{n:x}" for n in range(1_001)]


def _nested(levels: int) -> object:
    info: object = 1
    for _ in range(levels):
        info = [info]
    return info


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": NOW + 0.001},
        {"exp": NOW + 86_400},
        {"exp": NOW + 86_405},
        {"exp": int(NOW) + 1},
        {"nbf": NOW + 5},
        {"nbf": NOW - 1_000_000},
        {"iat": NOW + 5},
        {"iat": 0},
        {"nbf": None, "iat": None},
        {"sub": "x" * 128},
        {"sub": "Ann O'Brien <ann@example.com>"},
        {"sub": "אן 🙂"},
        {"channels": []},
        {"channels": NAMES[:1_000]},
        {"info": "x" * 4094},
        {"info": 0},
        {"info": _nested(32)},
        {"jti": ""},
        {"aud": "other", "iss": "other"},
        {"unknown": {"claims": "are ignored"}},
    ],
)
def test_claims_within_their_limits_are_accepted(changed: dict[str, Any]) -> None:
    run_without_waiting(verifier().identity(token(**changed)))


@pytest.mark.parametrize(
    ("claim", "values"),
    [
        ("sub", [None, "", 7, ["ann"], "x" * 129, "ann\n", "a\x00nn", "\x7f", "\x85", "a\tb"]),
        ("exp", [None, "soon", True, [NOW + 60], NOW + 86_406, 10**15, {}]),
        ("nbf", [NOW + 5.1, "now", True, {}]),
        ("iat", [NOW + 5.1, "now", False]),
        ("channels", ["news", {"news": 1}, [7], ["a b"], [""], ["news", None], ["@bob"], ["x" * 129]]),
        ("channels", [NAMES]),
        (
            "info",
            ["x" * 4095, ["x" * 2_000] * 3, _nested(33), _nested(300)],
        ),
        ("jti", [7, "x" * 257]),
        ("channel", ["chat:1", "", 7, False]),
    ],
)
def test_claims_beyond_their_limits_are_rejected(claim: str, values: list[Any]) -> None:
    for value in values:
        error = rejected(verifier().identity(token(**{claim: value})))
        assert error.code == "unauthorized"
        assert claim in error.message


@pytest.mark.parametrize("seconds", [0, 0.5, 60, 10**9])
def test_an_expired_token_is_rejected_whatever_the_leeway(seconds: float) -> None:
    error = rejected(verifier(leeway=3_600.0).identity(token(exp=NOW - seconds)))
    assert error.code == "token_expired"


def test_max_ttl_limits_how_far_ahead_exp_may_lie() -> None:
    strict = verifier(max_ttl=60.0, leeway=0.0)
    run_without_waiting(strict.identity(token(exp=NOW + 60)))
    assert "at most 60 s ahead" in rejected(strict.identity(token(exp=NOW + 61))).message


@pytest.mark.parametrize("audience", [None, "other", ["other"], [], 7, "fanwa", ["fanway2"], {"fanway": 1}])
def test_a_token_for_another_audience_is_rejected(audience: Any) -> None:
    assert "aud" in rejected(verifier(audience="fanway").identity(token(aud=audience))).message


@pytest.mark.parametrize("audience", ["fanway", ["other", "fanway"]])
def test_the_audience_may_be_one_of_several(audience: Any) -> None:
    run_without_waiting(verifier(audience="fanway").identity(token(aud=audience)))


@pytest.mark.parametrize("issuer", [None, "other", ["us"], "us/", 7])
def test_a_token_of_another_issuer_is_rejected(issuer: Any) -> None:
    assert "iss" in rejected(verifier(issuer="us").identity(token(iss=issuer))).message


def test_channel_tokens_and_connection_tokens_are_not_interchangeable() -> None:
    assert "channel token" in rejected(verifier().identity(token(channel="chat:1"))).message
    assert "connection token" in rejected(verifier().channel_token(token())).message


@pytest.mark.parametrize("channel", ["", "a b", 7, ["chat:1"], "x" * 129, "chat/1", False])
def test_a_channel_token_names_one_channel(channel: Any) -> None:
    assert "claim channel" in rejected(verifier().channel_token(token(channel=channel))).message


def test_the_other_claims_of_a_channel_token_are_checked_too() -> None:
    strict = verifier(audience="fanway")
    good = {"channel": "chat:1", "aud": "fanway"}
    run_without_waiting(strict.channel_token(token(**good)))
    for wrong in ({"aud": "other"}, {"sub": ""}, {"exp": None}, {"nbf": NOW + 60}, {"info": "x" * 5_000}):
        rejected(strict.channel_token(token(**{**good, **wrong})))
    assert rejected(strict.channel_token(token(**good, exp=NOW))).code == "token_expired"


def test_an_error_shows_a_claim_short_and_escaped() -> None:
    message = rejected(verifier().identity(token(sub="\x1b[31m" + "x" * 2_000))).message
    assert "\x1b" not in message
    assert len(message) < 300
