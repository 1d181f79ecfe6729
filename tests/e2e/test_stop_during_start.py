"""SIGTERM while a gateway starts: it ends with status 0, also as the first process of a container (PID 1)."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.broker.redis_server import running_redis
from tests.e2e.gateway import FANWAY, SECRET, TIMEOUT_SECONDS

SERVE = ["serve", "--dev", "--port", "0", "--internal-port", "0"]
NEW_PID_NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child"]
"""Runs a command as PID 1 of a namespace of its own, where this is permitted (unshare(1))."""

STOPPED_AT_IMPORT = """
import os, signal, sys

class StopAt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[-1]:
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, StopAt())
from gateway.cli.main import main
sys.argv, module = ["fanway", "serve", "--dev", sys.argv[-1]], sys.argv[-1]
main()
"""


def environment(**settings: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FANWAY_")}
    return {**inherited, "FANWAY_AUTH__SECRET": SECRET, **settings}


@pytest.mark.parametrize("module", ["typer", "gateway.settings.load", "pydantic", "orjson"])
def test_the_signal_is_handled_before_the_imports_that_take_long(module: str, tmp_path: Path) -> None:
    stopped = subprocess.run(
        [sys.executable, "-c", STOPPED_AT_IMPORT, module],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert (stopped.returncode, stopped.stderr) == (0, "")


def catches_sigterm(pid: int) -> bool:
    """Return whether the process *pid* has a handler for SIGTERM (proc(5), SigCgt)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> signal.SIGTERM - 1 & 1)


def child_of(pid: int) -> int | None:
    """Return the process that `unshare`, the process *pid*, has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


@contextmanager
def starting(home: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield a gateway that starts, once it handles SIGTERM, and its process id; PID 1 where permitted."""
    permitted = subprocess.run([*NEW_PID_NAMESPACE, "true"], check=False, capture_output=True).returncode == 0
    with subprocess.Popen(
        [*(NEW_PID_NAMESPACE if permitted else []), FANWAY, *SERVE],
        cwd=home,
        env=environment(**settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            pid = child_of(process.pid) if permitted else process.pid
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while pid is None or not catches_sigterm(pid):
                assert time.monotonic() < deadline
                pid = child_of(process.pid) if permitted else process.pid
                time.sleep(0.001)  # another process does not notify us
            yield process, pid
        finally:
            process.kill()


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3, 0.6])
def test_a_stop_at_any_moment_of_the_start_ends_the_process(delay: float, tmp_path: Path) -> None:
    with starting(tmp_path) as (process, pid):
        time.sleep(delay)  # any moment is as good as another: none may fail
        os.kill(pid, signal.SIGTERM)
        assert process.wait(TIMEOUT_SECONDS) == 0


@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0])
def test_a_stop_at_any_moment_ends_several_workers(delay: float, tmp_path: Path) -> None:
    with (
        running_redis(tmp_path) as redis,
        starting(
            tmp_path,
            FANWAY_NODE__WORKERS="2",
            FANWAY_BROKER__KIND="redis",
            FANWAY_BROKER__URL=redis.url,
            FANWAY_DRAIN__WINDOW="0s",
        ) as (process, pid),
    ):
        time.sleep(delay)
        os.kill(pid, signal.SIGTERM)
        assert process.wait(TIMEOUT_SECONDS) == 0
