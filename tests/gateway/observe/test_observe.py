"""What operators see: health, metrics, logs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import httpx
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from gateway.observe import health, logs, metrics
from gateway.observe.worker_metrics import WorkerMetrics, merged


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
    exposition = metrics.Exposition({"hub": lambda: figures}, lambda: {4006: 2})
    async with client(Starlette(routes=[exposition.route()])) as http:
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
    assert "worker=" not in second.text


async def test_metrics_of_any_worker_are_those_of_all(tmp_path: Path) -> None:
    def of(number: int) -> metrics.Exposition:
        crew = WorkerMetrics(str(tmp_path), number, 3)
        return metrics.Exposition({"hub": lambda: {"sessions": number}}, lambda: {4006: 10 * number}, crew)

    one, two = of(1), of(2)
    async with client(Starlette(routes=[one.route()])) as http, two.shared():
        text = (await http.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == text.count("# TYPE"), "each is described once"

    def by_worker(name: str) -> dict[str, float]:
        return {sample.labels["worker"]: sample.value for sample in families[name].samples}

    assert by_worker("fanway_hub_sessions") == {"1": 1, "2": 2}
    assert by_worker("fanway_hub_closed") == {"1": 10, "2": 20}
    assert by_worker("fanway_worker_up") == {"1": 1, "2": 1, "3": 0}
    assert set(by_worker("process_resident_memory_bytes")) == {"1", "2"}


def test_a_page_of_a_worker_that_says_nothing_is_left_out() -> None:
    page = b'# HELP a b c\n# TYPE a gauge\na{worker="2"} 5.0\n'
    lost = "# HELP {0} x\n# TYPE {0} gauge\n".format("fanway_worker_up").encode()
    up = lost + b'fanway_worker_up{worker="2"} 1.0\n'
    assert merged({1: None, 2: page + up}) == page + up + b'fanway_worker_up{worker="1"} 0.0\n'


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
