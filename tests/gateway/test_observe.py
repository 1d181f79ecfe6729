"""What operators see: health, metrics, logs."""

from __future__ import annotations

import json
import logging

import httpx
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from gateway.observe import health, logs, metrics


def client(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


async def test_ready_while_there_are_no_problems() -> None:
    problems: list[str] = []
    async with client(Starlette(routes=health.routes(lambda: problems))) as http:
        assert (await http.get("/healthz")).status_code == 200
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"ready": True, "problems": []})
        problems.append("draining")
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "problems": ["draining"]})
        assert (await http.get("/healthz")).status_code == 200


async def test_metrics_are_read_when_asked_for() -> None:
    figures = {"messages": 1.0, "sessions": 3.0}
    async with client(Starlette(routes=[metrics.route({"hub": lambda: figures}, lambda: {4006: 2})])) as http:
        first = await http.get("/metrics")
        figures["messages"] = 5.0
        second = await http.get("/metrics")
    assert first.headers["content-type"].startswith("text/plain")
    assert values(first.text)["fanway_hub_messages_total"] == pytest.approx(1.0)
    found = {family.name: family.type for family in text_string_to_metric_families(second.text)}
    assert found["fanway_hub_messages"] == "counter"
    assert found["fanway_hub_sessions"] == "gauge"
    assert values(second.text)["fanway_hub_messages_total"] == pytest.approx(5.0)
    assert 'fanway_hub_closed_total{code="4006"} 2.0' in second.text
    assert "process_resident_memory_bytes" in found


def values(text: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def fresh_logging() -> object:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("fresh_logging")
def test_logs_are_one_json_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logs.logger().info("hello", who="line\nbreak \x1b[31m", size=3)
    logs.logger().debug("not at this level")
    logging.getLogger("somewhere").warning("from a library: %s", "a\nb")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["hello", "from a library: a\\nb"]
    assert lines[0]["who"] == "line\\nbreak \\x1b[31m"
    assert lines[0]["size"] == 3
    assert [line["level"] for line in lines] == ["info", "warning"]


@pytest.mark.usefixtures("fresh_logging")
def test_what_clients_wrote_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logs.logger().info("x", reason="a" * 10_000)
    assert len(capsys.readouterr().err) < 1_000


@pytest.mark.usefixtures("fresh_logging")
def test_an_error_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    try:
        int("broken")
    except ValueError as error:
        logs.logger().error("unexpected", exc_info=error)
    line = json.loads(capsys.readouterr().err)
    assert "ValueError: invalid literal" in line["exception"]
