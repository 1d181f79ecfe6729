"""Who may call the internal API."""

import pytest

from gateway.push.keys import Keys

KEYS = Keys(["first", "second-Ünïcode"])


@pytest.mark.parametrize(
    "authorization",
    [b"Bearer first", b"bearer first", b"BEARER  first ", "Bearer second-Ünïcode".encode()],
)
def test_every_key_opens(authorization: bytes) -> None:
    assert KEYS.admit(authorization)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"first",
        b"Bearer",
        b"Bearer ",
        b"Bearer firs",
        b"Bearer first2",
        b"Bearer First",
        b"Bearer first first",
        b"Basic first",
        b"Bearer\tfirst",
        b"Bearer \xff",
    ],
)
def test_nothing_else_opens(authorization: bytes | None) -> None:
    assert not KEYS.admit(authorization)


def test_without_keys_nobody_is_admitted() -> None:
    assert not Keys([]).admit(b"Bearer ")
    assert not Keys([]).admit(None)


def test_an_empty_key_would_open_to_everybody() -> None:
    with pytest.raises(ValueError, match=r"push\.keys"):
        Keys(["good", ""])


def test_no_key_is_shown() -> None:
    assert "first" not in repr(KEYS)
