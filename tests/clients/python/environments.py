"""Fresh virtual environments with packages of this checkout, as `pip install` makes them."""

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]
GATEWAY, CLIENT = ROOT, ROOT / "clients" / "python"


def build_wheels(folder: Path, sources: Sequence[Path] = (GATEWAY, CLIENT)) -> list[Path]:
    """Build the wheels of *sources* into *folder*."""
    # The lock file of `make setup` has installed what a build needs.
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder))
    _pip("wheel", *options, *map(str, sources))
    return sorted(folder.glob("*.whl"))


def make_environment(folder: Path, wheels: Sequence[Path]) -> str:
    """Make an environment with *wheels* and what they depend on; return its Python.

    Their dependencies are those of the tests' own environment, without what is installed there from this
    checkout.
    """
    venv.create(folder / "venv", symlinks=True)
    python = str(folder / "venv" / "bin" / "python")
    dependencies = folder / "dependencies"
    dependencies.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and not entry.name.startswith(("fanway", "_fanway")):
            (dependencies / entry.name).symlink_to(entry)
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    (site_packages / "dependencies.pth").write_text(f"{dependencies}\n")
    if wheels:
        _pip("--python", python, "install", "--quiet", "--no-deps", "--no-index", *map(str, wheels))
    return python


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, timeout=100)
