"""The fixtures of `fanway-client[pytest]` in a project of its own, with the wheels installed."""

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.clients.python.environments import build_wheels, make_environment

pytest_plugins = ["pytester"]

TIMEOUT_SECONDS = 100.0
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio")
"""A run of pytest, without the plugin of the tests' environment that warns unless it is configured."""

CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def fanway_config():
    return '[channels.short]\\nhistory = 1\\n'

@pytest.fixture(autouse=True)
def pids(request, session_fanway_server):
    with open(request.config.rootpath / "pids", "a") as file:
        file.write(f"{session_fanway_server.process.pid}\\n")
"""

TESTS = """
import asyncio
import pytest
from fanway_client import Fanway
from fanway_client.admin import FanwayAdmin

seen = []

def test_publish(fanway_server):
    channel = fanway_server.new_channel()
    fanway_server.admin.publish(channel, "hello")
    with FanwayAdmin(fanway_server.push_url, fanway_server.push_key) as admin:
        assert [each["data"] for each in admin.history(channel)["messages"]] == ["hello"]
    seen.append(fanway_server)

def test_the_same_process(fanway_server):
    (other,) = seen
    assert other.process.pid == fanway_server.process.pid
    assert fanway_server.admin is not other.admin
    with pytest.raises(RuntimeError, match="closed"):
        other.admin.stats()
    assert fanway_server.new_channel() != fanway_server.new_channel()

def test_a_client(fanway_server):
    async def first():
        channel = fanway_server.new_channel()
        async with (
            Fanway(fanway_server.url, get_token=lambda _: fanway_server.mint_token("ann")) as fanway,
            fanway_server.async_admin() as admin,
        ):
            await admin.publish(channel, 1)
            async for message in fanway.channel(channel, rewind=1):
                return message.data, (await fanway.channel(channel).publish(2)).id
    data, id = asyncio.run(first())
    assert data == 1 and id.startswith("2-")

def test_the_configuration_of_the_project(fanway_server):
    channel = fanway_server.new_channel("short")
    for number in range(3):
        fanway_server.admin.publish(channel, number)
    assert [each["data"] for each in fanway_server.admin.history(channel)["messages"]] == [2]
"""

OWN_SETTINGS = """
import pytest

def test_settings_of_its_own(start_fanway_server, tmp_path):
    own = start_fanway_server("[channels.default]\\nhistory = 0\\n", dev=False)
    assert "message" not in own.admin.publish("news", 1)
    file = tmp_path / "own.toml"
    file.write_text("[channels.default]\\nhistory = 2\\n")
    other = start_fanway_server(file, environment={"FANWAY_NODE__NAME": "other"})
    assert [node["node"] for node in other.admin.nodes()] == ["other"]
    assert own.url != other.url

def test_faults(start_fanway_server):
    with pytest.raises(pytest.fail.Exception, match="(?s)has ended with status 1.*no_such_key"):
        start_fanway_server("[auth]\\nno_such_key = 1\\n")
"""

OTHER_TEST = """
def test_two(fanway_server):
    assert fanway_server.admin.stats()["nodes"] == 1
"""

WITHOUT_GATEWAY = """
import sys

def test_the_plugin_imports_nothing_of_the_client(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("fanway")
    assert not [name for name in sys.modules if name.startswith(("fanway_client", "gateway", "httpx"))]

def test_one(fanway_server):
    pass
"""

BLOCKED = """
import threading

def test_blocked(fanway_server):
    with open("started", "w") as fifo:
        fifo.write(str(fanway_server.process.pid))
    threading.Event().wait()
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build_wheels(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, wheels: list[Path]) -> str:
    return make_environment(tmp_path_factory.mktemp("installed"), wheels)


@contextmanager
def blocked_run(pytester: pytest.Pytester, python: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a test that waits for ever; yields the run, and a descriptor of its gateway."""
    pytester.makepyfile(BLOCKED)
    os.mkfifo(pytester.path / "started")
    command = [python, *PYTEST]
    with subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.DEVNULL) as run:
        try:
            gateway = os.pidfd_open(int((pytester.path / "started").read_text()))
            try:
                yield run, gateway
            finally:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(gateway, signal.SIGKILL)
                os.close(gateway)
        finally:
            run.kill()


def ended(process: int, seconds: float) -> bool:
    """Return whether the process of a descriptor ends within *seconds*."""
    return bool(select.select([process], [], [], seconds)[0])


def test_a_project_with_two_processes(pytester: pytest.Pytester, python: str) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        test_one=TESTS, test_two="def test_two(fanway_server):\n    fanway_server.admin.stats()"
    )
    options = ("-W", "error", "-n", "2", "--dist", "loadfile")
    result = pytester.run(python, *PYTEST, *options, timeout=TIMEOUT_SECONDS)
    result.assert_outcomes(passed=5)
    pids = set((pytester.path / "pids").read_text().split())
    assert len(pids) == 2
    assert not [pid for pid in pids if Path("/proc", pid).exists()]


def test_gateways_with_settings_of_their_own(pytester: pytest.Pytester, python: str) -> None:
    pytester.makepyfile(OWN_SETTINGS)
    result = pytester.run(python, *PYTEST, "-W", "error", timeout=TIMEOUT_SECONDS)
    result.assert_outcomes(passed=2)


def test_an_interrupted_run_leaves_no_gateway(pytester: pytest.Pytester, python: str) -> None:
    with blocked_run(pytester, python) as (run, gateway):
        assert not ended(gateway, 0)
        run.send_signal(signal.SIGINT)
        assert run.wait(TIMEOUT_SECONDS) == pytest.ExitCode.INTERRUPTED
        assert ended(gateway, 0)


def test_a_killed_run_leaves_no_gateway(pytester: pytest.Pytester, python: str) -> None:
    with blocked_run(pytester, python) as (run, gateway):
        run.kill()
        assert ended(gateway, TIMEOUT_SECONDS)


def test_without_the_gateway(
    pytester: pytest.Pytester, wheels: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    only_client = [wheel for wheel in wheels if wheel.name.startswith("fanway_client")]
    python = make_environment(tmp_path_factory.mktemp("client"), only_client)
    pytester.makepyfile(WITHOUT_GATEWAY)
    result = pytester.run(python, *PYTEST, timeout=TIMEOUT_SECONDS)
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["there is no gateway to start: install the package fanway,*"])
