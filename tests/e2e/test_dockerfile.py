"""The container image, read as text where no engine can build it: stages, user, tools, sources, health."""

import http.server
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

from gateway.settings import load

ROOT = Path(__file__).parents[2]


class Instruction(NamedTuple):
    word: str
    rest: str


def instructions(text: str) -> list[Instruction]:
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


DOCKERFILE = instructions((ROOT / "Dockerfile").read_text())
LAST_STAGE = DOCKERFILE[max(i for i, step in enumerate(DOCKERFILE) if step.word == "FROM") :]


def last(word: str) -> str:
    (rest,) = (step.rest for step in LAST_STAGE if step.word == word)
    return rest


def copies(*, from_stage: bool) -> list[list[str]]:
    words = [shlex.split(step.rest) for step in DOCKERFILE if step.word == "COPY"]
    return [copy for copy in words if copy[0].startswith("--from=") is from_stage]


def test_every_keyword_is_an_instruction() -> None:
    known = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "CMD"}
    assert {step.word for step in DOCKERFILE} <= known


def test_both_stages_use_the_same_slim_python() -> None:
    (default,) = (step.rest for step in DOCKERFILE if step.word == "ARG")
    assert re.fullmatch(r"PYTHON=3\.1[1-9]-slim(-\w+)?", default)
    assert [step.rest for step in DOCKERFILE if step.word == "FROM"] == [
        "python:${PYTHON} AS build",
        "python:${PYTHON}",
    ]


def test_the_last_stage_gets_the_venv_and_installs_nothing() -> None:
    assert [step.rest.split()[0] for step in LAST_STAGE if step.word == "RUN"] == ["useradd"]
    assert [step.rest for step in LAST_STAGE if step.word == "COPY"] == [
        "--from=build /opt/fanway /opt/fanway"
    ]


def test_it_runs_as_a_user_that_the_last_stage_makes_and_that_is_not_root() -> None:
    user = last("USER")
    assert int(user) > 0
    assert f"--uid {user} " in last("RUN")


def test_every_copied_source_exists_and_reaches_the_build() -> None:
    reaching = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    sources = {source.rstrip("/") for copy in copies(from_stage=False) for source in copy[:-1]}
    assert sources == reaching
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_what_it_downloads_is_locked() -> None:
    runs = [step.rest for step in DOCKERFILE if step.word == "RUN"]
    installs = [part for run in runs for part in run.split("&&") if " install " in part]
    downloads = [part for part in installs if "--no-deps" not in part]
    assert len(downloads) == len(("build", "runtime"))
    assert all("--require-hashes --only-binary :all:" in part for part in downloads)


def test_the_locks_agree_and_cover_what_the_package_asks_for() -> None:
    everything, runtime, build = (pins(f"requirements{part}.lock") for part in ("", "-runtime", "-build"))
    assert runtime.items() | build.items() <= everything.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = {re.split(r"[\[<>=]", line)[0] for line in project["project"]["dependencies"]}
    assert asked <= runtime.keys()


def pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text()
    assert "://" not in text
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==(\S+)", text, re.MULTILINE))


def test_its_environment_is_settings_that_the_gateway_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in re.findall(r"(FANWAY_\w+)=(\S+)", last("ENV")):
        monkeypatch.setenv(name, value)
    settings = load(None, complete=False)
    assert settings.listen.public.host == "0.0.0.0"
    assert settings.listen.internal.host == "127.0.0.1"
    assert last("EXPOSE").split() == [str(settings.listen.public.port), str(settings.listen.internal.port)]


def test_it_starts_what_the_package_installs() -> None:
    program, *arguments = json.loads(last("CMD"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert program in project["project"]["scripts"]
    assert arguments == ["serve"]


@pytest.mark.parametrize(
    ("status", "healthy"), [(HTTPStatus.OK, True), (HTTPStatus.SERVICE_UNAVAILABLE, False)]
)
def test_its_health_is_what_healthz_answers(status: HTTPStatus, healthy: bool) -> None:
    python, *arguments = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])
    assert python == "python"
    with answering({"/healthz": status}) as port:
        environment = {"FANWAY_LISTEN__PUBLIC__PORT": str(port)}
        probe = subprocess.run(
            [sys.executable, *arguments], env=environment, check=False, capture_output=True
        )
    assert (probe.returncode == 0) is healthy


@contextmanager
def answering(statuses: dict[str, HTTPStatus]) -> Iterator[int]:
    """A server on a free port of loopback that answers each path with its status, and no other."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path, HTTPStatus.NOT_FOUND))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
