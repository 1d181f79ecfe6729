"""Autobahn's conformance cases for RFC 6455 against the WebSocket transport."""

import asyncio
import sys
from collections import Counter
from pathlib import Path

import orjson

from tests.e2e.echo_app import echo

KOSOKU = str(Path(sys.executable).with_name("kosoku"))
# 9: throughput; 12 and 13: permessage-deflate, which this version does not negotiate.
LEFT_OUT = ("9.*", "12.*", "13.*")
CASES = 247


async def test_every_case_passes_and_closes_cleanly(tmp_path: Path) -> None:
    excluded = [argument for case in LEFT_OUT for argument in ("-x", case)]
    async with echo() as port:
        suite = await asyncio.create_subprocess_exec(
            *(KOSOKU, f"127.0.0.1:{port}", "-p", "8", *excluded, "-o", str(tmp_path)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        answer, _ = await suite.communicate()
    (cases,) = orjson.loads((tmp_path / "index.json").read_bytes()).values()
    assert suite.returncode == 0, answer.decode()
    assert len(cases) == CASES
    behaviours = Counter(case["behavior"] for case in cases.values())
    closings = Counter(case["behaviorClose"] for case in cases.values())
    # NON-STRICT: text that goes wrong in the middle of a message is refused at the end of it.
    assert set(behaviours) <= {"OK", "NON-STRICT", "INFORMATIONAL"}, behaviours
    assert behaviours["NON-STRICT"] <= 4, behaviours
    assert set(closings) <= {"OK", "INFORMATIONAL"}, closings
