"""`/metrics` of one node, and of several workers."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from gateway.observe import metrics
from gateway.observe.worker_metrics import WorkerMetricsExchange


def client(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


def values(text: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_are_read_at_each_scrape() -> None:
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


async def test_each_worker_shows_the_metrics_of_all_workers(tmp_path: Path) -> None:
    def exposition_of(number: int) -> metrics.Exposition:
        workers = WorkerMetricsExchange(str(tmp_path), number, 3)
        return metrics.Exposition({"hub": lambda: {"sessions": number}}, lambda: {4006: 10 * number}, workers)

    one, two = exposition_of(1), exposition_of(2)
    async with client(Starlette(routes=[one.route()])) as http, two.serving_workers():
        text = (await http.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == text.count("# TYPE"), "each metric is described once"

    def by_worker(name: str) -> dict[str, float]:
        return {sample.labels["worker"]: sample.value for sample in families[name].samples}

    assert by_worker("fanway_hub_sessions") == {"1": 1, "2": 2}
    assert by_worker("fanway_hub_closed") == {"1": 10, "2": 20}
    assert by_worker("fanway_worker_up") == {"1": 1, "2": 1, "3": 0}
    assert set(by_worker("process_resident_memory_bytes")) == {"1", "2"}
