"""The limits that a client can reach are in `connected`, as configured, and documented."""

import re
from pathlib import Path

from gateway.runtime import factory
from gateway.settings import Settings
from tests.e2e.clients import Client
from tests.e2e.gateway import gateway_on_loop

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def table() -> list[list[str]]:
    """Return the rows of the table of limits."""
    section = DOCUMENT.split("\n## Limits\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [re.split(r" ?\| ?", row) for row in rows[1:]]


def test_each_documented_limit_is_in_connected_and_each_limit_in_connected_is_documented() -> None:
    documented = [name for row in table() for name in re.findall(r"`(\w+)`", row[2])]
    assert list(dict.fromkeys(documented)) == list(factory.session_limits(Settings()).as_reply())


async def test_clients_are_told_the_limits_of_the_configuration(tmp_path: Path) -> None:
    configured = """
        [push]
        idempotency_ttl = "90s"
        [heartbeat]
        grace = "7s"
        [outbox]
        size = "2MiB"
        [limits]
        connections_per_user = 3
        connections_per_address = 50
        strikes = 5
        connect_timeout = "4s"
        [limits.costs]
        publish = 3
    """
    expected = {
        "key_ttl": 90,
        "heartbeat_grace": 7,
        "connections_per_user": 3,
        "connections_per_address": 50,
        "rejections": 5,
        "connect_timeout": 4,
        "reply_size": 2**20,
    }
    async with gateway_on_loop(tmp_path, configured) as gateway, Client.open(gateway.public) as client:
        told = client.connected["limits"]
    assert {name: told[name] for name in expected} == expected
    assert (told["costs"]["publish"], told["costs"]["history"]) == (3, 4)
