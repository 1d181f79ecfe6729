"""Who may call the push API."""

import pytest

from gateway.push.push_keys import PushKeys

KEYS = PushKeys(["first", "second-Ünïcode"])


@pytest.mark.parametrize(
    "authorization",
    [b"Bearer first", b"bearer first", b"BEARER  first ", "Bearer second-Ünïcode".encode()],
)
def test_every_key_is_accepted(authorization: bytes) -> None:
    assert KEYS.accepts(authorization)


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
def test_nothing_else_is_accepted(authorization: bytes | None) -> None:
    assert not KEYS.accepts(authorization)


def test_without_keys_nothing_is_accepted() -> None:
    assert not PushKeys([]).accepts(b"Bearer ")
    assert not PushKeys([]).accepts(None)


def test_an_empty_key_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"push\.keys"):
        PushKeys(["good", ""])


def test_repr_shows_no_key() -> None:
    assert "first" not in repr(KEYS)
