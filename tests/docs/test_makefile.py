"""What `make run` and `make setup` install."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.docs.pages import ROOT

FILES = (
    "Makefile",
    "pyproject.toml",
    "requirements.lock",
    "requirements-runtime.lock",
    "requirements-build.lock",
    "clients/python/pyproject.toml",
)


def commands(home: Path, target: str) -> str:
    """Return the commands that `make` would execute for *target* in a new checkout."""
    for name in FILES:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, home / name)
    return dry_run(home, target)


def dry_run(home: Path, *targets: str) -> str:
    # Not as a part of the `make test` that runs this test.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    printed = subprocess.run(
        ["make", "--dry-run", *targets],
        cwd=home,
        env={name: value for name, value in environment.items() if name != "MFLAGS"},
        check=True,
        capture_output=True,
        text=True,
    )
    return printed.stdout


def test_run_installs_what_a_gateway_needs_and_starts_it(tmp_path: Path) -> None:
    printed = commands(tmp_path, "run")
    assert "-r requirements-runtime.lock" in printed
    assert "-r requirements.lock" not in printed
    assert printed.splitlines()[-1] == ".venv/bin/fanway serve --dev"


def test_setup_installs_everything(tmp_path: Path) -> None:
    printed = commands(tmp_path, "setup")
    assert printed.index("-r requirements-runtime.lock") < printed.index("-r requirements.lock")


def test_nothing_is_installed_twice(tmp_path: Path) -> None:
    commands(tmp_path, "setup")
    (tmp_path / ".venv").mkdir()
    for stamp in (".installed-runtime", ".installed"):
        (tmp_path / ".venv" / stamp).touch()
    assert commands_again(tmp_path) == [".venv/bin/fanway serve --dev"]


def commands_again(home: Path) -> list[str]:
    return [line for line in dry_run(home, "setup", "run").splitlines() if not line.startswith("make: ")]
