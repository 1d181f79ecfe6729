"""A run of the load tests says how far it is."""

import subprocess
import sys

import pytest

from loadtests.__main__ import progress, wait_with_progress


@pytest.mark.parametrize(
    ("elapsed", "line"),
    [
        (0.0, "chat: 0 of 90 s"),
        (10.2, "chat: 10 of 90 s"),
        (90.0, "chat: waiting for the last deliveries and the report"),
    ],
)
def test_progress_is_seconds_until_the_report_is_due(elapsed: float, line: str) -> None:
    assert progress("chat", elapsed, 90) == line


def test_progress_is_printed_from_the_start_until_the_process_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sleeping = "import sys, time; time.sleep(0.3); sys.exit(7)"
    with subprocess.Popen([sys.executable, "-c", sleeping]) as process:
        assert wait_with_progress(process, "chat", 90, interval=0.05) == 7
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) > 1
    assert set(lines) == {"chat: 0 of 90 s"} | set(lines[1:])
    assert all(line.startswith("chat: ") for line in lines)
