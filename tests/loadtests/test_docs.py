"""docs/load-testing.md: its example scenario runs as it is written, and it documents every option."""

import asyncio
import re
import sys
from pathlib import Path

import orjson
import pytest

from loadtests.__main__ import parser
from loadtests.gateway_process import run_gateway
from tests.docs.pages import ROOT, Page

PAGE = Page(ROOT / "docs" / "load-testing.md")


@pytest.mark.parametrize("before", ["", "import time\n\ntime.sleep(2.5)\n"], ids=["", "slow import"])
async def test_the_example_scenario_runs_as_it_is_written(tmp_path: Path, before: str) -> None:
    """It runs for its whole duration, however long the import took."""
    (block,) = (block for block in PAGE.blocks if block.language == "python")
    (tmp_path / "roll_call.py").write_text(before + block.text)
    with run_gateway(tmp_path / "gateway.log") as gateway:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "locust", "-f", "roll_call.py", "--headless", "-u5", "-r5", "-t2s"),
            *(f"--host={gateway.url}", "--only-summary"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    report = orjson.loads((tmp_path / "artifacts/loadtests/roll-call.json").read_bytes())
    assert report["totals"]["delivered"] >= 5
    assert b"PASSED roll-call" in output


def test_it_documents_every_option() -> None:
    documented = {option for row in PAGE.table("## Run it") for option in re.findall(r"--[a-z-]+", row[0])}
    assert documented == set(re.findall(r"--[a-z-]+", parser().format_usage()))
