from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import RSAKey

from gateway.access.keys import HMAC, Key, TokenError, private_key, public_key, secret_keys
from gateway.access.tokens import ChannelToken, Identity, Verifier, mint
from gateway.clock import FakeClock
from protocol import limits
from protocol.errors import ErrorCode
from tests.gateway.access.signing import (
    HS256,
    HS384,
    HS512,
    NOW,
    PAIRS,
    PRIVATE,
    PUBLIC,
    SECRET,
    claims,
    encoded,
    forged,
    rejected,
    run_without_waiting,
    token,
    verifier,
)

# What is accepted.


@pytest.mark.parametrize("key", [HS256, HS384, HS512], ids=HMAC)
def test_a_secret_verifies_every_size_of_hmac(key: Key) -> None:
    minted = mint(key, user="ann", ttl=60, now=NOW)
    identity = run_without_waiting(verifier(HS256, HS384, HS512).identity(minted))
    assert identity == Identity("ann", NOW + 60, issued_at=NOW)


@pytest.mark.parametrize("alg", PAIRS)
def test_a_public_key_verifies_the_algorithm_of_its_type(alg: str) -> None:
    minted = mint(private_key(PRIVATE[alg]), user="ann", ttl=60, now=NOW)
    key = public_key(PUBLIC[alg])
    assert key.alg == alg
    assert run_without_waiting(verifier(key).identity(minted)).user == "ann"


def test_every_claim_is_in_the_identity() -> None:
    minted = mint(
        HS256,
        user="ann",
        ttl=60,
        now=NOW,
        channels=["news", "@ann", "chat:1", "news"],
        info={"name": "Ann Ünicode", "roles": [1, None]},
        audience="fanway",
        issuer="https://id.example.com",
        token_id="t-1",
    )
    identity = run_without_waiting(
        verifier(audience="fanway", issuer="https://id.example.com").identity(minted)
    )
    assert identity == Identity(
        user="ann",
        expires_at=NOW + 60,
        info={"name": "Ann Ünicode", "roles": [1, None]},
        channels=("news", "@ann", "chat:1"),
        token_id="t-1",
        issued_at=NOW,
    )


def test_a_channel_token_permits_its_channel() -> None:
    minted = mint(HS256, user="ann", ttl=60, now=NOW, channel="chat:1", info="x")
    opened = run_without_waiting(verifier().channel_token(minted))
    assert opened == ChannelToken("ann", "chat:1", NOW + 60, "x", NOW)


def test_verifying_with_known_keys_does_not_wait() -> None:
    assert run_without_waiting(verifier().identity(token())).user == "ann"


def test_unknown_header_parameters_are_ignored() -> None:
    header = {"alg": "HS256", "typ": "at+jwt", "cat": "x", "kid": "whatever", "x5t": "abc"}
    assert run_without_waiting(verifier().identity(forged(header, claims()))).user == "ann"


# What is not: signatures, algorithms and headers.


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
@pytest.mark.parametrize("signature", ["", "c2ln"])
def test_an_unsigned_token_is_rejected(alg: str, signature: str) -> None:
    unsigned = f"{encoded({'alg': alg})}.{encoded(claims())}.{signature}"
    message = rejected(verifier(HS256, public_key(PUBLIC["RS256"])).identity(unsigned)).message
    assert "expected one of ES256, EdDSA, HS256" in message


@pytest.mark.parametrize("alg", PAIRS)
@pytest.mark.parametrize("hmac_alg", HMAC)
def test_a_public_key_is_not_accepted_as_a_secret(alg: str, hmac_alg: str) -> None:
    pem = PUBLIC[alg]
    for secret in (pem, pem.strip(), PAIRS[alg].as_der(private=False)):
        attack = forged({"alg": hmac_alg}, claims(), secret=secret, alg=hmac_alg)
        assert "no key" in rejected(verifier(public_key(pem)).identity(attack)).message


@pytest.mark.parametrize("alg", PAIRS)
def test_a_public_key_verifies_no_other_algorithm(alg: str) -> None:
    minted = mint(private_key(PRIVATE[alg]), user="ann", ttl=60, now=NOW)
    _, payload, signature = minted.split(".")
    for other in {*PAIRS, "HS256"} - {alg}:
        attack = f"{encoded({'alg': other})}.{payload}.{signature}"
        assert "no key" in rejected(verifier(public_key(PUBLIC[alg])).identity(attack)).message


def test_a_secret_for_one_algorithm_verifies_no_other() -> None:
    (only,) = secret_keys(SECRET, algorithm="HS512")
    run_without_waiting(verifier(only).identity(mint(HS512, user="ann", ttl=60, now=NOW)))
    for key in (HS256, HS384):
        rejected(verifier(only).identity(mint(key, user="ann", ttl=60, now=NOW)))


@pytest.mark.parametrize(
    "extension",
    [
        {"crit": ["exp"]},
        {"crit": ["urn:example:policy"], "urn:example:policy": 1},
        {"crit": ["b64"], "b64": False},
        {"crit": ["b64"], "b64": True},
        {"crit": ["alg"]},
        {"crit": []},
        {"crit": 7},
        {"crit": None},
        {"b64": False},
    ],
)
def test_critical_extensions_are_rejected(extension: dict[str, Any]) -> None:
    rejected(verifier().identity(forged({"alg": "HS256", **extension}, claims())))


def test_a_key_inside_a_token_is_ignored() -> None:
    theirs = RSAKey.generate_key(2048)
    embedded = {"jwk": theirs.as_dict(private=False), "jku": "https://evil.com/jwks", "kid": "x"}
    attack = mint(Key("RS256", theirs), user="root", ttl=60, now=NOW)
    _, payload, signature = attack.split(".")
    for header in ({"alg": "RS256", **embedded}, {"alg": "RS256"}):
        attempt = f"{encoded(header)}.{payload}.{signature}"
        assert "signature" in rejected(verifier(public_key(PUBLIC["RS256"])).identity(attempt)).message


def test_a_signature_of_zeros_is_rejected() -> None:
    """CVE-2022-21449: r = s = 0 verified anything."""
    for zeros in (bytes(64), bytes(63), bytes(65), bytes.fromhex("3006020100020100"), b""):
        attack = f"{encoded({'alg': 'ES256'})}.{encoded(claims())}.{encoded(zeros)}"
        assert "signature" in rejected(verifier(public_key(PUBLIC["ES256"])).identity(attack)).message


@pytest.mark.parametrize("alg", ["HS256", *PAIRS])
def test_an_altered_token_is_rejected(alg: str) -> None:
    signing, verifying = (
        (HS256, HS256) if alg == "HS256" else (private_key(PRIVATE[alg]), public_key(PUBLIC[alg]))
    )
    header, payload, signature = mint(signing, user="ann", ttl=60, now=NOW).split(".")
    raised = encoded(claims(sub="root"))
    for attack in (
        f"{header}.{raised}.{signature}",
        f"{encoded({'alg': alg, 'typ': 'other'})}.{payload}.{signature}",
        f"{header}.{payload}.{signature[:-4]}",
        f"{header}.{payload}.{'A' * len(signature)}",
        f"{header}.{payload}.",
    ):
        assert "signature" in rejected(verifier(verifying).identity(attack)).message


def test_a_token_signed_with_another_secret_is_rejected() -> None:
    attack = forged({"alg": "HS256"}, claims(), secret=SECRET[:-1])
    error = rejected(verifier().identity(attack))
    assert (error.code, "signature" in error.message) == ("unauthorized", True)


@pytest.mark.parametrize("kid", [7, ["a"], {"a": 1}, True])
def test_a_kid_that_is_no_string_is_rejected(kid: Any) -> None:
    rejected(verifier().identity(forged({"alg": "HS256", "kid": kid}, claims())))


# What is no token at all.

GOOD = token()
HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "....",
        "ann",
        f"{HEADER}.{PAYLOAD}",
        f"{GOOD}.",
        f"{GOOD}.{PAYLOAD}.{PAYLOAD}",
        f" {GOOD}",
        f"{GOOD}\n",
        f"Bearer {GOOD}",
        f"{GOOD}=",
        f"{HEADER}=.{PAYLOAD}.{SIGNATURE}",
        f"{HEADER}.{PAYLOAD}=.{SIGNATURE}",
        f"{HEADER}.{PAYLOAD}.{SIGNATURE}\x00",
        f"{HEADER}.{PAYLOAD}.ü{SIGNATURE[1:]}",
        f"{HEADER}.{PAYLOAD}.\ud800",
        f"{HEADER}+/.{PAYLOAD}.{SIGNATURE}",
        f"{encoded(b'{')}.{PAYLOAD}.{SIGNATURE}",
        f"{encoded(bytes([0xFF, 0xFE]))}.{PAYLOAD}.{SIGNATURE}",
        f"{encoded(b'[' * 2_000)}.{PAYLOAD}.{SIGNATURE}",
        f"{encoded(b'[' * 2_000 + b']' * 2_000)}.{PAYLOAD}.{SIGNATURE}",
    ],
)
def test_malformed_tokens_are_rejected(text: str) -> None:
    assert rejected(verifier().identity(text)).code == "unauthorized"


@pytest.mark.parametrize(
    "header", [[], ["alg"], ["alg", "b64"], "alg", 7, None, {}, {"alg": 7}, {"alg": None}]
)
def test_a_header_without_an_alg_is_rejected(header: Any) -> None:
    rejected(verifier().identity(forged(header, claims())))


@pytest.mark.parametrize(
    "payload",
    [
        [],
        "sub",
        7,
        None,
        b"",
        b"{",
        b"\xff",
        b'{"sub":"ann","exp":NaN}',
        b'{"sub":"ann","exp":Infinity}',
        b'{"sub":"ann","exp":1e999}',
        b'{"sub":"ann","exp":1' + b"0" * 400 + b"}",
        b'{"sub":"\\ud800","exp":1700000060}',
        b'{"info":' + b"[" * 2_000 + b"]" * 2_000 + b"}",
        {},
    ],
)
def test_a_payload_that_is_no_object_is_rejected(payload: Any) -> None:
    rejected(verifier().identity(forged({"alg": "HS256"}, payload)))


class Careless:
    """Keys that hand out one whatever is asked for."""

    def __init__(self, key: Key) -> None:
        self.key = key

    def find(self, kid: str | None, alg: str) -> Key | None:
        return self.key

    async def resolve(self, kid: str | None, alg: str) -> Key:
        return self.key


@pytest.mark.parametrize("key", [HS384, HS512, public_key(PUBLIC["RS256"])], ids=["HS384", "HS512", "RS256"])
def test_a_key_of_another_algorithm_does_not_verify(key: Key) -> None:
    careless = Verifier(Careless(key), audience=None, issuer=None, clock=FakeClock(NOW))
    assert "signature" in rejected(careless.identity(token())).message


class Untouchable:
    """Keys that fail the test that asks for one."""

    def find(self, kid: str | None, alg: str) -> Key | None:
        pytest.fail(f"asked for {kid} {alg}")

    async def resolve(self, kid: str | None, alg: str) -> Key:
        pytest.fail(f"asked for {kid} {alg}")


@pytest.mark.parametrize("text", [f"{GOOD}{'x' * limits.TOKEN_SIZE}", "x" * 10**6, token(pad="x" * 8_000)])
def test_a_token_that_is_too_long_is_rejected_before_any_cryptography(text: str) -> None:
    guarded = Verifier(Untouchable(), audience=None, issuer=None, clock=FakeClock(NOW))
    assert "8192" in rejected(guarded.identity(text)).message
    assert "8192" in rejected(guarded.channel_token(text)).message


@pytest.mark.parametrize(
    "text",
    [
        GOOD[:-2],
        f"{HEADER}.{encoded(claims(sub='root'))}.{SIGNATURE}",
        token(exp=NOW - 1),
        token(sub=None),
        token(channel="chat:1"),
        forged({"alg": "RS256"}, claims()),
    ],
)
def test_errors_never_contain_the_token(text: str) -> None:
    error = rejected(verifier().identity(text))
    assert not [part for part in text.split(".") if part in f"{error!r} {error.message}"]
    assert error.__cause__ is None


@given(st.text() | st.text("abc.eyJ0", max_size=60))
def test_any_text_is_rejected_without_another_error(text: str) -> None:
    rejected(verifier().identity(text))


@given(st.integers(0, len(GOOD) - 1), st.sampled_from("AZaz09-_.=+ \x00é"))
def test_a_token_with_one_changed_character_is_rejected(place: int, character: str) -> None:
    changed = GOOD[:place] + character + GOOD[place + 1 :]
    if changed != GOOD:
        rejected(verifier().identity(changed))


# Minting.


@pytest.mark.parametrize(
    "wrong",
    [
        {"user": ""},
        {"user": "x" * 129},
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": 86_406},
        {"ttl": float("inf")},
        {"ttl": float("nan")},
        {"channel": "a b"},
        {"channels": ["@bob"]},
        {"info": "x" * 5_000},
        {"channels": [f"{n:0100}" for n in range(80)]},
    ],
)
def test_a_token_that_a_verifier_would_reject_is_not_minted(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (a row each, in the words of the claims' rules)
        mint(HS256, **{"user": "ann", "ttl": 60, "now": NOW, **wrong})


def test_a_public_key_cannot_mint() -> None:
    with pytest.raises(ValueError, match="cannot sign"):
        mint(public_key(PUBLIC["ES256"]), user="ann", ttl=60, now=NOW)
    with pytest.raises(ValueError, match="cannot sign"):
        private_key(PUBLIC["ES256"])


def test_the_kid_is_in_the_header() -> None:
    key = private_key(PRIVATE["ES256"], kid="2024")
    minted = mint(key, user="ann", ttl=0.25, now=NOW)
    serving = public_key(PUBLIC["ES256"], kid="2024")
    assert run_without_waiting(verifier(serving).identity(minted)).expires_at == NOW + 0.25
    rejected(verifier(public_key(PUBLIC["ES256"], kid="2025")).identity(minted))


MISTAKES = {
    "{}\n": "ends with a line break",
    "{}\r\n": "ends with a line break",
    " {}": "has white space in it",
    "{} ": "has white space in it",
    "{}.\n": "ends with a line break",
    "Bearer {}": "begins with 'Bearer'",
    "bearer {}\n": "begins with 'Bearer'",
    '"{}"': "has quotes around it",
    "'{}": "has quotes around it",
    "{}=": "has base64 padding",
    "{}==": "has base64 padding",
    "{}+/": "has + or /",
    "{}.a.b": "is encrypted",
    "{}.a": "this is no token",
    "{}\u00fc": "this is no token",
    "{}\x00": "this is no token",
}


@pytest.mark.parametrize("form", MISTAKES)
def test_what_happened_to_a_token_on_its_way_is_named_without_the_token(form: str) -> None:
    given = form.format(token())
    with pytest.raises(TokenError) as caught:
        run_without_waiting(verifier().identity(given))
    assert MISTAKES[form] in caught.value.message
    assert caught.value.code is ErrorCode.UNAUTHORIZED
    assert not any(part in caught.value.message for part in token().split("."))


@pytest.mark.parametrize("text", ["", ".", "..", "a", "a.b"])
def test_what_has_not_the_parts_of_a_token_is_no_token(text: str) -> None:
    with pytest.raises(TokenError, match="this is no token"):
        run_without_waiting(verifier().identity(text))
