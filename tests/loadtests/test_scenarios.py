"""Whole runs of a few seconds, in child processes because locust patches every socket of its process."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from loadtests.gateway_process import run_gateway
from tests.loadtests.faulty_proxy import FAULTS, faulty_proxy


@dataclass(frozen=True)
class CompletedRun:
    """The exit code of a run, its output, and its JSON report."""

    exit_code: int
    output: str
    report: dict[str, Any]


async def run(scenario: str, artifacts: Path, *arguments: str) -> CompletedRun:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests", scenario, "--profile=seconds", f"--artifacts={artifacts}"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    exit_code = process.returncode
    assert exit_code is not None
    report = artifacts / f"{scenario}.json"
    return CompletedRun(
        exit_code, output.decode(), orjson.loads(report.read_bytes()) if report.exists() else {}
    )


async def test_fanout_passes_with_its_own_gateway(tmp_path: Path) -> None:
    fanout = await run("fanout", tmp_path)
    assert fanout.exit_code == 0, fanout.output
    totals = fanout.report["totals"]
    assert totals["subscribers"] == 60
    assert totals["published"] > 100
    assert totals["delivered"] > 10 * totals["published"]
    assert {"delivery", "push", "push.batch", "push.broadcast"} <= set(fanout.report["timings_us"])
    assert "PASSED fanout" in fanout.output
    assert "holds nothing" in fanout.output


async def test_chat_passes_with_people_who_disconnect_and_resume(tmp_path: Path) -> None:
    chat = await run("chat", tmp_path)
    assert chat.exit_code == 0, chat.output
    totals, counts = chat.report["totals"], chat.report["counts"]
    assert totals["published"] > 50
    assert totals["delivered"] > 2 * totals["published"]
    assert totals["unknown"] == 0
    assert counts["resumes"] > 5
    assert counts["recovered"] > 5
    assert counts["presence.checked"] == 30
    assert {"publish", "resume", "replay", "presence", "subscribe"} <= set(chat.report["timings_us"])


async def test_a_network_that_drops_duplicates_and_swaps_messages_fails_the_run(tmp_path: Path) -> None:
    with run_gateway(tmp_path / "gateway.log") as gateway:
        async with faulty_proxy(gateway.url, *FAULTS) as url:
            failed = await run(
                "fanout", tmp_path, f"--host={url}", f"--push={gateway.push}", "--codec=json", "--channels=1"
            )
    assert failed.exit_code == 1, failed.output
    faults = {
        kind: failed.report["totals"][kind] for kind in ("lost", "duplicated", "reordered", "misnumbered")
    }
    assert faults == {"lost": 1, "duplicated": 1, "reordered": 1, "misnumbered": 0}
    findings = {
        finding["kind"]: finding for finding in failed.report["findings"] if finding["kind"] != "late"
    }
    assert len({finding["subscriber"] for finding in findings.values()}) == 1
    for finding in findings.values():
        (message,) = finding["messages"]
        assert message in failed.output
    assert "FAILED fanout: 1 lost; 1 duplicated; 1 reordered" in failed.output


async def test_an_objective_that_is_not_met_fails_the_run(tmp_path: Path) -> None:
    slow = await run("fanout", tmp_path, "--users=3", "--duration=1", "--slo=delivered>=1000000")
    assert slow.exit_code == 1, slow.output
    assert slow.report["failures"] == ["delivered >= 1,000,000 not met"]


async def test_several_processes_share_the_users_and_make_one_report(tmp_path: Path) -> None:
    shared = await run("chat", tmp_path, "--processes=2", "--duration=3")
    assert shared.exit_code == 0, shared.output
    assert shared.report["settings"]["processes"] == 2
    assert shared.report["counts"]["presence.checked"] == 30
    assert shared.report["totals"]["delivered"] > 30
