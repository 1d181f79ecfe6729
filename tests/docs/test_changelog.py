"""CHANGELOG.md has an entry for the version of the package."""

import re
from datetime import date

import gateway
from tests.docs.pages import ROOT

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def test_the_newest_release_is_the_version_of_the_package() -> None:
    releases = re.findall(r"^## (\d+\.\d+\.\d+) - (\S+)$", CHANGELOG, re.MULTILINE)
    versions = [version for version, _ in releases]
    assert versions[0] == gateway.__version__
    assert versions == sorted(versions, key=lambda version: [*map(int, version.split("."))], reverse=True)
    assert [day for _, day in releases if date.fromisoformat(day).isoformat() != day] == []


def test_unreleased_changes_are_above_every_release() -> None:
    assert re.findall(r"^## (\S+)", CHANGELOG, re.MULTILINE)[0] == "Unreleased"
