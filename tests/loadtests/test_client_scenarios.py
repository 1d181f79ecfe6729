"""The load tests' client passes the scenarios of docs/vectors/client that concern what it does."""

import re
import subprocess
import sys


def test_the_client_of_the_load_tests_passes_the_scenarios_of_client_libraries() -> None:
    command = [sys.executable, "-m", "tests.loadtests.scenario_driver"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed, 0 failed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 100
