"""The bench of several nodes runs and loses nothing; its figures need a machine without other load."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

Rows = list[dict[str, Any]]


def run_bench(script: str, report: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "bench" / script), "--quick", "--json", str(report), *arguments]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    decoded: dict[str, Any] = json.loads(report.read_text())
    return decoded


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_bench("cluster.py", tmp_path_factory.mktemp("bench") / "report.json")


def test_one_node_delivers_what_another_published(sections: dict[str, Rows]) -> None:
    (row,) = sections["latency"]
    assert_all_delivered(row)
    assert 0 < row["p50 ms"] <= row["p99 ms"]


def test_a_node_receives_every_publish_of_every_batch(sections: dict[str, Rows]) -> None:
    rows = sections["batch"]
    assert {row["batch"] for row in rows} == {"bare 100", "1000 x 4"}
    for row in rows:
        assert row["delivered"] == row["published"] > 0, row


def test_a_node_reads_only_its_own_channels_whatever_the_number_of_nodes(sections: dict[str, Rows]) -> None:
    for row in sections["interest"]:
        rounds = row["published"] / 1000
        assert row["entries"] == row["subscribed"] * rounds, row
        assert row["delivered"] == row["nodes"] * row["entries"], row
    kib_per_entry = [row["KiB"] / row["entries"] for row in sections["interest"]]
    assert max(kib_per_entry) < 1.5 * min(kib_per_entry)


def test_a_flooded_channel_does_not_affect_deliveries_in_others(sections: dict[str, Rows]) -> None:
    rows = sections["neighbours"]
    assert [row["setup"] for row in rows] == ["one node"] * 2 + ["two nodes"] * 2
    assert [row["flood"] > 0 for row in rows] == [False, True] * 2
    for row in rows:
        assert_all_delivered(row)


def test_workers_share_the_subscribers(sections: dict[str, Rows]) -> None:
    assert [row["workers"] for row in sections["workers"]] == ["1, memory", "1", "2"]
    for row in sections["workers"]:
        assert_all_delivered(row)


def test_the_costs_of_redis_are_separate_from_those_of_the_gateway(tmp_path: Path) -> None:
    report = run_bench(
        "compare.py", tmp_path / "report.json", "--peers", "fanway-redis,fanway", "--scenarios", "max"
    )
    with_redis, alone = report["rows"]
    assert (with_redis["peer"], alone["peer"]) == ("fanway-redis", "fanway")
    assert_all_delivered(with_redis)
    assert with_redis["Redis µs"] > alone["Redis µs"] == 0


def assert_all_delivered(row: dict[str, Any]) -> None:
    delivered, expected = row["delivered/expected"].split("/")
    assert delivered == expected != "0", row
    assert row["closed"] == row["refused"] == 0, row
