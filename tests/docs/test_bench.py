"""The bench runs, and all that it publishes arrives; what its figures are, only a quiet machine can say."""

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
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for scenario in SCENARIOS:
        assert f"\n== {scenario}: " in done.stdout
    told = json.loads(report.read_text())
    assert told["conditions"]["processors"] > 0
    rows: list[dict[str, Any]] = told["rows"]
    return rows


def test_every_scenario_is_measured(rows: list[dict[str, Any]]) -> None:
    assert [(row["peer"], row["scenario"]) for row in rows] == [("fanway", name) for name in SCENARIOS]


def test_everything_published_arrives(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        delivered, expected = row["delivered/expected"].split("/")
        assert delivered == expected != "0", row
        assert row["closed"] == row["refused"] == 0, row


def test_costs_come_from_the_process_that_serves(rows: list[dict[str, Any]]) -> None:
    # A delivery takes a microsecond at least, and half a second of the busiest scenario takes many ticks.
    (busiest,) = (row for row in rows if row["scenario"] == "max")
    assert busiest["CPU µs"] > 0
