"""The bench of many nodes runs and loses nothing; what its figures are, only a quiet machine can say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

Rows = list[dict[str, Any]]


def _told(script: str, report: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "bench" / script), "--quick", "--json", str(report), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(report.read_text())
    return told


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _told("cluster.py", tmp_path_factory.mktemp("bench") / "report.json")


def test_one_node_delivers_what_another_published(sections: dict[str, Rows]) -> None:
    (row,) = sections["latency"]
    _arrived(row)
    assert 0 < row["p50 ms"] <= row["p99 ms"]


def test_a_node_hears_every_publish_of_every_batch(sections: dict[str, Rows]) -> None:
    rows = sections["batch"]
    assert {row["batch"] for row in rows} == {"bare 100", "1000 x 4"}
    for row in rows:
        assert row["arrived"] == row["published"] > 0, row


def test_a_node_reads_what_it_follows_whatever_the_size_of_the_cluster(sections: dict[str, Rows]) -> None:
    for row in sections["interest"]:
        rounds = row["published"] / 1000
        assert row["entries"] == row["follows"] * rounds, row
        assert row["delivered"] == row["nodes"] * row["entries"], row
    each = [row["KiB"] / row["entries"] for row in sections["interest"]]
    assert max(each) < 1.5 * min(each)


def test_a_flood_takes_nothing_from_its_neighbour(sections: dict[str, Rows]) -> None:
    rows = sections["neighbours"]
    assert [row["way"] for row in rows] == ["one node"] * 2 + ["two nodes"] * 2
    assert [row["flood"] > 0 for row in rows] == [False, True] * 2
    for row in rows:
        _arrived(row)


def test_workers_share_the_subscribers(sections: dict[str, Rows]) -> None:
    assert [row["workers"] for row in sections["workers"]] == ["1, memory", "1", "2"]
    for row in sections["workers"]:
        _arrived(row)


def test_redis_is_told_apart_from_the_gateway(tmp_path: Path) -> None:
    told = _told(
        "compare.py", tmp_path / "report.json", "--peers", "fanway-redis,fanway", "--scenarios", "max"
    )
    over_redis, alone = told["rows"]
    assert (over_redis["peer"], alone["peer"]) == ("fanway-redis", "fanway")
    _arrived(over_redis)
    assert over_redis["Redis µs"] > alone["Redis µs"] == 0


def _arrived(row: dict[str, Any]) -> None:
    delivered, expected = row["delivered/expected"].split("/")
    assert delivered == expected != "0", row
    assert row["closed"] == row["refused"] == 0, row
