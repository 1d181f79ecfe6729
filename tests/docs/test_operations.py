"""docs/operations.md against what runs: every metric with its type, health, the log, the figures."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.settings import load
from tests.broker.redis_server import running_redis
from tests.docs.pages import ROOT, Page
from tests.e2e.gateway import GatewayProcess, gateway_process

PAGE = Page(ROOT / "docs" / "operations.md")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def over_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with (
        running_redis(tmp_path_factory.mktemp("redis")) as redis,
        gateway_process(
            tmp_path_factory.mktemp("node"), BROKER__KIND="redis", BROKER__URL=redis.url
        ) as gateway,
    ):
        yield gateway


async def metrics(gateway: GatewayProcess) -> tuple[str, list[tuple[str, str]]]:
    """All that is exposed, and what is ours of it, with its type."""
    text = (await gateway.request("GET", "/metrics")).text
    return text, re.findall(r"^# TYPE (fanway_\w+) (\w+)$", text, re.MULTILINE)


def documented(heading: str) -> list[tuple[str, str]]:
    return [(name.strip("`"), kind) for name, kind, _ in PAGE.table(heading)]


async def test_documented_metrics_are_those_that_are_exposed(
    gateway: GatewayProcess, over_redis: GatewayProcess
) -> None:
    text, exposed = await metrics(gateway)
    assert documented("## Metrics") == exposed
    _, exposed = await metrics(over_redis)
    ours = [each for each in exposed if each[0].startswith("fanway_broker_")]
    assert documented("### Metrics of the Redis broker") == ours
    unexplained = (
        r"^# HELP fanway_([a-z]+)_\w+ \w+ of the \1$"  # as gateway/observe/metrics.py does without a text
    )
    assert not re.search(unexplained, text, re.MULTILINE)


async def test_documented_metrics_of_jwks_are_those_that_are_exposed(tmp_path: Path) -> None:
    # Nothing listens on the discard port of this machine: every fetch fails.
    with gateway_process(tmp_path, AUTH__SECRET="", AUTH__JWKS_URL="http://127.0.0.1:9/keys") as gateway:
        _, exposed = await metrics(gateway)
        assert documented("### Metrics of the keys at a JWKS URL") == [
            each for each in exposed if each[0].startswith("fanway_jwks_")
        ]
        figures = await gateway.metrics()
    assert (figures["jwks_keys"], figures["jwks_age_seconds"]) == (0, -1)


async def test_metrics_named_elsewhere_exist(gateway: GatewayProcess, over_redis: GatewayProcess) -> None:
    text = (await metrics(gateway))[0] + (await metrics(over_redis))[0]
    jwks = [name for name, _ in documented("### Metrics of the keys at a JWKS URL")]
    text += "".join(f"\n{name} 0\n" for name in jwks)  # compared with what is exposed above
    for path in sorted((ROOT / "docs").glob("*.md")):
        for name in re.findall(r"\b(?:fanway|process)_\w+_\w+\b", path.read_text()):
            assert re.search(rf"^{name}[ {{]", text, re.MULTILINE), f"{path.name}: {name}"


async def test_documented_health_paths_answer(gateway: GatewayProcess) -> None:
    for path, _, _ in PAGE.table("## Health"):
        assert (await gateway.request("GET", path.strip("`"))).status_code == 200


def test_log_lines_have_the_documented_fields(tmp_path: Path) -> None:
    (example,) = (json.loads(block.text) for block in PAGE.blocks if block.language == "json")
    with gateway_process(tmp_path, LOG__FORMAT="json") as gateway:
        pass
    (draining,) = (
        json.loads(line) for line in gateway.stderr.splitlines() if line.startswith("{") and "drain" in line
    )
    assert draining.keys() == example.keys()
    assert (draining["event"], draining["level"]) == (example["event"], example["level"])


def test_documented_figures_are_the_defaults() -> None:
    words = " ".join(PAGE.text.split())
    settings = load(None, complete=False)
    assert f"`drain.window` ({settings.drain.window:g} s)" in words
    assert f"`drain.timeout` ({settings.drain.timeout:g} s)" in words
    assert f"`limits.connections_per_address` ({settings.limits.connections_per_address:,})" in words
    assert f"`broker.memory` allows ({settings.broker.memory >> 20} MiB)" in words
    assert f"`outbox.size` ({settings.outbox.size >> 20} MiB)" in words
    assert f"`listen.public.send_buffer`, {settings.listen.public.send_buffer >> 10} KiB" in words
    assert f"`listen.public.user_timeout`, {settings.listen.public.user_timeout:g} s" in words
    silent = settings.heartbeat.interval + settings.heartbeat.grace
    assert f"heartbeat.interval + heartbeat.grace, {silent:g} s" in words
    assert f"sent a `ping` after {settings.heartbeat.interval:g} s" in words


def test_documented_variables_are_settings() -> None:
    with pytest.MonkeyPatch.context() as environ:
        for name in set(re.findall(r"FANWAY_\w+__\w+", PAGE.text)):
            environ.setenv(name, "a-secret-of-32-bytes-at-the-least")
        load(None, complete=False)
