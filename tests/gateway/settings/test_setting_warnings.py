"""Settings that are accepted with a warning."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.access.ratelimit import CommandLimiter
from gateway.defaults import MIN_NODE_MEMORY_BYTES
from gateway.settings import Settings, load
from gateway.settings.available_memory import available_memory
from gateway.settings.setting_warnings import longest_connect, warnings
from protocol.codec import JSON

JWKS: dict[str, object] = {"auth.jwks_url": "https://keys.example.com/jwks.json", "push.keys": ["k"]}


def test_the_defaults_have_none() -> None:
    assert list(warnings(Settings())) == []
    assert list(warnings(load(None, dev=True))) == []


@pytest.mark.parametrize(
    ("more", "missing"),
    [
        ({}, "auth.audience and auth.issuer"),
        ({"auth.issuer": "https://keys.example.com/"}, "auth.audience"),
        ({"auth.audience": "chat"}, "auth.issuer"),
    ],
)
def test_keys_of_a_provider_without_audience_or_issuer_are_warned_of(
    more: dict[str, object], missing: str
) -> None:
    (warning,) = warnings(load(None, flags={**JWKS, **more}))
    assert str(warning) == (
        f"auth.jwks_url: a token that the same provider issued for another service is accepted; set {missing}"
    )


def test_a_secret_of_fewer_bytes_than_the_hash_is_warned_of() -> None:
    flags: dict[str, object] = {"auth.secret": "s" * 31, "push.keys": ["k"]}
    (warning,) = warnings(load(None, flags=flags))
    assert str(warning) == (
        "auth.secret: has 31 bytes, fewer than the 32 of RFC 7518 section 3.2; "
        "make one with `openssl rand -hex 32`"
    )
    assert list(warnings(load(None, flags={**flags, "auth.secret": "s" * 32}))) == []


def test_keys_of_a_provider_with_audience_and_issuer_are_not_warned_of() -> None:
    more = {"auth.audience": "chat", "auth.issuer": "https://keys.example.com/"}
    assert list(warnings(load(None, flags={**JWKS, **more}))) == []


def subscribes_everywhere(configured: Settings) -> bool:
    """Return whether a connection may send `connect` and `subscribe` for all its channels at once."""
    limits = configured.limits
    limiter = CommandLimiter(limits.commands_per_second, limits.command_burst, limits.costs.model_dump())
    commands = ["connect", *["subscribe"] * limits.channels_per_connection]
    return not any(limiter.admit(command, 0.0) for command in commands)


def test_the_defaults_let_a_client_subscribe_to_all_its_channels() -> None:
    defaults = Settings()
    assert subscribes_everywhere(defaults)
    assert len(JSON.encode_command(longest_connect(defaults))) <= defaults.limits.message_size
    subs = longest_connect(defaults).subs
    assert len(subs) == defaults.limits.channels_per_connection
    assert {len(name) for name in subs} == {128}


@settings(deadline=None, max_examples=50)
@given(
    channels=st.integers(1, 300),
    burst=st.integers(10, 500),
    cost=st.integers(0, 3),
    size=st.integers(8 * 1024, 128 * 1024),
)
def test_what_the_number_of_channels_does_not_fit_is_warned_of(
    channels: int, burst: int, cost: int, size: int
) -> None:
    flags = {
        "limits.channels_per_connection": channels,
        "limits.command_burst": burst,
        "limits.costs.subscribe": cost,
        "limits.message_size": size,
    }
    configured = load(None, dev=True, flags=flags)
    warned = {warning.key for warning in warnings(configured)}
    assert ("limits.command_burst" in warned) is not subscribes_everywhere(configured)
    too_long = len(JSON.encode_command(longest_connect(configured))) > size
    assert ("limits.message_size" in warned) is too_long


def test_a_warning_says_what_to_give() -> None:
    flags: dict[str, object] = {"limits.channels_per_connection": 1_000}
    lines = [str(warning) for warning in warnings(load(None, dev=True, flags=flags))]
    assert lines[0] == (
        "limits.command_burst = 300: a client that subscribes to limits.channels_per_connection (1000) "
        "channels at once is closed with 4008; give at least 2001"
    )
    assert lines[1].startswith("limits.message_size = 65536: a client that resumes ")
    flags |= {"limits.command_burst": 2_001, "limits.message_size": int(lines[1].rpartition(" ")[2])}
    assert list(warnings(load(None, dev=True, flags={**flags, "outbox.size": "2MiB"}))) == []


def test_more_memory_than_the_machine_has_is_warned_of() -> None:
    available = available_memory()
    (warning,) = warnings(load(None, dev=True, flags={"limits.memory": available + 1}))
    assert str(warning) == (
        f"limits.memory = {available + 1}: more than the memory of this machine or container, {available}; "
        "give less, or 0 for a quarter of that"
    )


@pytest.mark.parametrize(
    "flags",
    [
        {"limits.memory": available_memory() - 2**20},
        {"broker.memory": available_memory()},
    ],
)
def test_a_sum_that_is_more_than_the_machine_has_is_warned_of(flags: dict[str, object]) -> None:
    (warning,) = warnings(load(None, dev=True, flags=flags))
    assert str(warning).startswith("limits.memory = ")
    assert f"this machine or container has {available_memory()} bytes of memory, and" in str(warning)
    assert "give less in limits.memory and broker.memory" in str(warning)


def test_without_limits_memory_each_worker_has_its_part_of_a_quarter() -> None:
    assert Settings().memory() == max(MIN_NODE_MEMORY_BYTES, available_memory() // 4)
    flags: dict[str, object] = {"node.workers": 2, "broker.kind": "redis", "broker.url": "redis://h"}
    assert load(None, dev=True, flags=flags).memory() == max(MIN_NODE_MEMORY_BYTES, available_memory() // 8)
    assert load(None, dev=True, flags={"limits.memory": "64MiB"}).memory() == 64 * 2**20
