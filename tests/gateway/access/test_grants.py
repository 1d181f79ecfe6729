"""The channels that a token names, less those that the push API ended."""

from __future__ import annotations

import pytest

from gateway.access.claims import MAX_CHANNELS
from gateway.access.grants import ClaimedChannels

NOW = 1_000.0


def claimed(*names: str, issued_at: float | None = 900.0) -> ClaimedChannels:
    channels = ClaimedChannels()
    channels.replace(names, issued_at)
    return channels


def test_the_channels_of_the_newest_token_are_permitted() -> None:
    channels = claimed("a", "b")
    assert (channels.names, "a" in channels, "c" in channels) == (("a", "b"), True, False)
    channels.replace(("c",), None)
    assert (channels.names, "a" in channels, "c" in channels) == (("c",), False, True)


@pytest.mark.parametrize(
    ("issued_at", "permitted"), [(None, False), (900.0, False), (NOW, False), (NOW + 0.1, True)]
)
def test_only_a_token_that_was_issued_later_permits_an_ended_channel_again(
    issued_at: float | None, permitted: bool
) -> None:
    channels = claimed("a", "b")
    channels.end("a", NOW)
    assert (channels.names, "a" in channels) == (("b",), False)
    assert channels.permits("a", issued_at) is permitted
    assert channels.permits("b", issued_at)
    channels.replace(("a", "b"), issued_at)
    assert ("a" in channels, "b" in channels) == (permitted, True)
    assert channels.permits("a", None) is permitted


def test_an_older_token_that_names_a_channel_for_the_first_time_does_not_permit_it() -> None:
    channels = claimed("b")
    channels.end("a", NOW)
    channels.replace(("a",), 900.0)
    assert channels.names == ()


def test_the_push_api_permits_an_ended_channel_again() -> None:
    channels = claimed("a")
    channels.allow("a")
    channels.end("a", NOW)
    channels.allow("a")
    assert (channels.names, channels.permits("a", None)) == (("a",), True)


def test_of_too_many_ended_channels_the_one_that_was_ended_first_is_forgotten() -> None:
    channels = claimed("a")
    channels.end("a", NOW)
    channels.end("b", NOW)
    channels.end("a", NOW + 1)
    for number in range(MAX_CHANNELS - 1):
        channels.end(f"c{number}", NOW + 2)
    assert (channels.permits("b", None), channels.permits("a", None)) == (True, False)
