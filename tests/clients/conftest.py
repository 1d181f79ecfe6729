"""Fixtures: a gateway with the channels that the clients' tests use, and a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.browser import Browser, chromium
from tests.e2e.gateway import GatewayProcess, gateway_process

CONFIG = """
[auth]
anonymous = true

[push]
keys = ["dev"]

[listen.public]
allowed_origins = ["*"]

[limits]
commands_per_second = 5000
command_burst = 10000

[channels.default]
subscribe = "authenticated"
publish = "authenticated"
history = 1000
presence = true
join_leave = true

[channels.open]
subscribe = "anyone"
publish = "anyone"

[channels.short]
history = 2

[channels.quiet]
publish = "nobody"

[channels.doc]
subscribe = "token"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="module")
def gateway(home: Path) -> Iterator[GatewayProcess]:
    with gateway_process(home, CONFIG, dev=False) as process:
        yield process


@pytest.fixture(scope="module")
def browser(home: Path) -> Iterator[Browser]:
    with chromium(home / "profile") as running:
        yield running
