"""Settings that are accepted with a warning."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.access.command_costs import CommandCosts
from gateway.access.ratelimit import CommandLimiter, CommandRates, Rate
from gateway.defaults import MIN_NODE_MEMORY_BYTES
from gateway.runtime import factory
from gateway.settings import Settings, load
from gateway.settings.available_memory import available_memory
from gateway.settings.setting_warnings import longest_connect, warnings
from protocol.codec import JSON
from protocol.messages import ClientMessage, Connect, Subscribe

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


def admits_all(rates: CommandRates, costs: CommandCosts, clients: int, channels: int, user: str = "") -> bool:
    """Return whether *clients* may `connect` and `subscribe` to *channels* with a token each, all at once."""
    commands: list[ClientMessage] = [Connect(1), *[Subscribe(1, "c", token="t")] * channels]
    for _ in range(clients):
        limiter = CommandLimiter(rates, "192.0.2.1")
        for command in commands:
            cost = costs.of(command)
            if cost and (limiter.admit(cost, 0.0) or limiter.admit_shared(cost, 0.0)):
                return False
            if command.type == "connect" and limiter.identify(user, cost, 0.0):
                return False
    return True


def subscribes_everywhere(configured: Settings) -> bool:
    """Return whether a connection may send `connect` and `subscribe` for all its channels at once."""
    own = CommandRates(factory.command_rates(configured).connection)
    channels = configured.limits.channels_per_connection
    return admits_all(own, factory.command_costs(configured), 1, channels)


def test_the_defaults_let_a_client_subscribe_to_all_its_channels() -> None:
    defaults = Settings()
    assert subscribes_everywhere(defaults)
    assert len(JSON.encode_command(longest_connect(defaults))) <= defaults.limits.message_size
    subs = longest_connect(defaults).subs
    assert len(subs) == defaults.limits.channels_per_connection
    assert {len(name) for name in subs} == {128}


def test_the_defaults_let_all_connections_of_a_user_connect_again_with_all_channels() -> None:
    configured = Settings()
    rates, limits = factory.command_rates(configured), configured.limits
    assert admits_all(
        rates,
        factory.command_costs(configured),
        limits.connections_per_user,
        limits.channels_per_connection,
        "ann",
    )


def test_the_defaults_let_all_connections_of_an_address_connect_again_with_five_channels() -> None:
    configured = Settings()
    rates, limits = factory.command_rates(configured), configured.limits
    assert admits_all(rates, factory.command_costs(configured), limits.connections_per_address, 5)


def test_the_defaults_let_an_office_of_500_connect_again_with_all_channels() -> None:
    configured = Settings()
    rates, limits = factory.command_rates(configured), configured.limits
    assert admits_all(rates, factory.command_costs(configured), 500, limits.channels_per_connection)


@settings(deadline=None, max_examples=30)
@given(
    connections=st.integers(1, 20),
    channels=st.integers(1, 20),
    user_burst=st.integers(1, 1_500),
    address_burst=st.integers(1, 1_500),
    user_rate=st.sampled_from([0, 10]),
    address_rate=st.sampled_from([0, 10]),
)
def test_what_the_number_of_connections_does_not_fit_is_warned_of(
    connections: int,
    channels: int,
    user_burst: int,
    address_burst: int,
    user_rate: int,
    address_rate: int,
) -> None:
    flags: dict[str, object] = {
        "limits.connections_per_user": connections,
        "limits.connections_per_address": connections,
        "limits.channels_per_connection": channels,
        "limits.user_command_burst": user_burst,
        "limits.user_commands_per_second": user_rate,
        "limits.address_command_burst": address_burst,
        "limits.address_commands_per_second": address_rate,
    }
    configured = load(None, dev=True, flags=flags)
    warned = {warning.key for warning in warnings(configured)}
    costs = factory.command_costs(configured)

    def fits(user: str) -> bool:
        rates = factory.command_rates(configured)
        only = (
            CommandRates(rates.connection, user=Rate(user_rate, user_burst) if user_rate else None)
            if user
            else CommandRates(
                rates.connection, address=Rate(address_rate, address_burst) if address_rate else None
            )
        )
        return admits_all(only, costs, connections, channels, user)

    assert ("limits.user_command_burst" in warned) is not fits("ann")
    assert ("limits.address_command_burst" in warned) is not fits("")


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
        "limits.command_burst = 500: a client that subscribes to limits.channels_per_connection (1000) "
        "channels at once is closed with 4008; give at least 3001"
    )
    assert lines[1] == (
        "limits.user_command_burst = 40000: limits.connections_per_user (100) "
        "that connect again at once get rate_limited; give at least 300100"
    )
    assert lines[2] == (
        "limits.address_command_burst = 200000: limits.connections_per_address (10000) "
        "that connect again at once get rate_limited; give at least 300100"
    )
    assert lines[3].startswith("limits.message_size = 65536: a client that resumes ")
    flags |= {
        "limits.command_burst": 3_001,
        "limits.user_command_burst": 300_100,
        "limits.address_command_burst": 300_100,
        "limits.message_size": int(lines[3].rpartition(" ")[2]),
    }
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
