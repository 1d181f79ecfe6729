"""The bench runs, and everything it publishes is delivered; its figures need a machine without other load."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCENARIOS = ("fan", "max", "many", "idle")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    report = tmp_path_factory.mktemp("bench") / "report.json"
    command = [sys.executable, str(ROOT / "bench" / "compare.py"), "--quick", "--json", str(report)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    for scenario in SCENARIOS:
        assert f"\n== {scenario}: " in completed.stdout
    decoded = json.loads(report.read_text())
    assert decoded["conditions"]["processors"] > 0
    rows: list[dict[str, Any]] = decoded["rows"]
    return rows


def test_every_scenario_is_measured(rows: list[dict[str, Any]]) -> None:
    assert [(row["peer"], row["scenario"]) for row in rows] == [("fanway", name) for name in SCENARIOS]


def test_everything_published_is_delivered(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        delivered, expected = row["delivered/expected"].split("/")
        assert delivered == expected != "0", row
        assert row["closed"] == row["refused"] == 0, row


def test_the_cpu_time_is_that_of_the_server(rows: list[dict[str, Any]]) -> None:
    # A delivery costs at least a microsecond; half a second of the busiest scenario takes many clock ticks.
    (busiest,) = (row for row in rows if row["scenario"] == "max")
    assert busiest["CPU µs"] > 0
