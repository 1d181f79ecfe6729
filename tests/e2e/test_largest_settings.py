"""A gateway with the largest values that its settings may have starts and serves."""

from pathlib import Path
from typing import Any

import pytest

from gateway.settings import ConfigError, load
from tests.broker.redis_server import RedisServer
from tests.e2e.clients import Client
from tests.e2e.gateway import GatewayOnLoop, gateway_on_loop, publish
from tests.gateway.settings.numbers import NUMBERS
from tests.gateway.settings.settings_kit import KEYS

LARGEST = {number.key: type(number.default)(number.largest or 0) for number in NUMBERS}
PORTS = ("listen.public.port", "listen.internal.port")
COSTS = [key for key in LARGEST if key.startswith("limits.costs.")]

REFUSED = {
    "node.workers": "several workers need a broker",
    "limits.connections": "more than the \\d+ file descriptors",
    "outbox.low_water": "not below outbox.high_water",
}
"""Keys whose largest value is a fault beside the defaults, and how the fault begins."""
DESCRIPTORS = "listen.internal.connections"
"""Its largest value is a fault too, of the number of file descriptors: settings/test_descriptors.py."""


async def serves(gateway: GatewayOnLoop) -> None:
    """Check that a client gets what a backend publishes with an idempotency key, and that it is stored."""
    async with Client.open(gateway.public, subs={"demo": {}}) as client:
        receipt = await publish(gateway.internal, "demo", 7, key="once")
        assert (await client.next_push("message"))["data"] == 7
        assert (await publish(gateway.internal, "demo", 7, key="once"))["message"] == receipt["message"]
        (stored,) = (await gateway.request("GET", "/v1/channels/demo/history")).json()["messages"]
        assert stored["data"] == 7


def largest(*keys: str) -> dict[str, Any]:
    return {key.replace(".", "__"): LARGEST[key] for key in keys}


async def test_the_largest_values_start(tmp_path: Path) -> None:
    keys = LARGEST.keys() - {*PORTS, *REFUSED, *COSTS, DESCRIPTORS}
    async with gateway_on_loop(tmp_path, **largest(*keys)) as gateway:
        await serves(gateway)


async def test_the_largest_costs_start(tmp_path: Path) -> None:
    async with gateway_on_loop(tmp_path, **largest(*COSTS, "limits.command_burst")) as gateway:
        await serves(gateway)


@pytest.mark.parametrize("key", REFUSED)
def test_a_largest_value_that_does_not_fit_the_rest_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key} = .*{REFUSED[key]}"):
        load(None, flags={**KEYS, key: LARGEST[key]})


async def test_redis_takes_the_largest_values(tmp_path: Path, redis: RedisServer) -> None:
    keys = [key for key in LARGEST if key.startswith(("broker.", "channels."))]
    settings = largest(*keys, "push.idempotency_ttl", "outbox.catch_up_batch", "limits.history_reply")
    redis_settings: dict[str, Any] = {"broker__kind": "redis", "broker__url": redis.url}
    async with gateway_on_loop(tmp_path, **redis_settings, **settings) as gateway:
        await serves(gateway)
