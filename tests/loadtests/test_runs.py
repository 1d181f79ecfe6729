"""Whole runs, for seconds; in processes of their own, since locust patches every socket of its process."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from loadtests.serving import serving
from tests.loadtests.proxy import FAULTS, bad_network


@dataclass(frozen=True)
class Run:
    """How a run ended, what it said, and its report."""

    code: int
    said: str
    report: dict[str, Any]


async def run(scenario: str, artifacts: Path, *arguments: str) -> Run:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests", scenario, "--profile=seconds", f"--artifacts={artifacts}"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    code = process.returncode
    assert code is not None
    report = artifacts / f"{scenario}.json"
    return Run(code, said.decode(), orjson.loads(report.read_bytes()) if report.exists() else {})


async def test_fanout_passes_against_a_gateway_of_its_own(tmp_path: Path) -> None:
    fanout = await run("fanout", tmp_path)
    assert fanout.code == 0, fanout.said
    totals = fanout.report["totals"]
    assert totals["subscribers"] == 60
    assert totals["published"] > 100
    assert totals["delivered"] > 10 * totals["published"]
    assert {"delivery", "push", "push.batch", "push.broadcast"} <= set(fanout.report["timings_us"])
    assert "PASSED fanout" in fanout.said
    assert "holds nothing" in fanout.said


async def test_chat_passes_with_people_who_come_and_go(tmp_path: Path) -> None:
    chat = await run("chat", tmp_path)
    assert chat.code == 0, chat.said
    totals, counts = chat.report["totals"], chat.report["counts"]
    assert totals["published"] > 50
    assert totals["delivered"] > 2 * totals["published"]
    assert totals["unknown"] == 0
    assert counts["resumes"] > 5
    assert counts["recovered"] > 5
    assert counts["presence.checked"] == 30
    assert {"publish", "resume", "replay", "presence", "subscribe"} <= set(chat.report["timings_us"])


async def test_a_network_that_drops_doubles_and_swaps_is_found_out(tmp_path: Path) -> None:
    with serving(tmp_path / "gateway.log") as gateway:
        async with bad_network(gateway.url, *FAULTS) as url:
            found = await run(
                "fanout", tmp_path, f"--host={url}", f"--push={gateway.push}", "--codec=json", "--channels=1"
            )
    assert found.code == 1, found.said
    faults = {
        kind: found.report["totals"][kind] for kind in ("lost", "duplicated", "reordered", "misnumbered")
    }
    assert faults == {"lost": 1, "duplicated": 1, "reordered": 1, "misnumbered": 0}
    findings = {finding["kind"]: finding for finding in found.report["findings"] if finding["kind"] != "late"}
    assert len({finding["who"] for finding in findings.values()}) == 1
    for finding in findings.values():
        (message,) = finding["which"]
        assert message in found.said
    assert "FAILED fanout: 1 lost; 1 duplicated; 1 reordered" in found.said


async def test_objectives_that_are_given_fail_a_run_that_breaks_them(tmp_path: Path) -> None:
    slow = await run("fanout", tmp_path, "--users=3", "--duration=1", "--slo=delivered>=1000000")
    assert slow.code == 1, slow.said
    assert slow.report["failures"] == ["delivered >= 1,000,000 broken"]


async def test_several_processes_share_the_users_and_make_one_report(tmp_path: Path) -> None:
    shared = await run("chat", tmp_path, "--processes=2", "--duration=1")
    assert shared.code == 0, shared.said
    assert shared.report["setting"]["processes"] == 2
    assert shared.report["counts"]["presence.checked"] == 30
    assert shared.report["totals"]["delivered"] > 30
