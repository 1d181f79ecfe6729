"""The contents of the wheel that `pip install fanway` installs."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

import gateway

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    target = tmp_path_factory.mktemp("dist")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(target), str(ROOT)], check=True)
    (path,) = target.iterdir()
    with ZipFile(path) as archive:
        yield archive


def test_it_is_named_after_the_distribution_and_the_packages_version(wheel: ZipFile) -> None:
    assert Path(str(wheel.filename)).name == f"fanway-{gateway.__version__}-py3-none-any.whl"


def test_it_holds_every_file_of_the_two_packages_and_nothing_else(wheel: ZipFile) -> None:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == {
        path.relative_to(ROOT).as_posix()
        for package in ("gateway", "protocol")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"gateway/py.typed", "protocol/py.typed"} <= packed


def test_wheel_names_its_licence_and_contains_the_text(wheel: ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    fields = wheel.read(metadata).decode().splitlines()
    assert {"License-Expression: Apache-2.0", "License-File: LICENSE"} <= set(fields)
    packed = wheel.read(metadata.replace("METADATA", "licenses/LICENSE"))
    assert packed == (ROOT / "LICENSE").read_bytes()
    assert b"Apache License" in packed


def test_wheel_installs_the_command(wheel: ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "fanway = gateway.cli.main:main" in wheel.read(entry_points).decode()
