"""What the documentation says of the code: its layers as they are checked, its files, its limits."""

import re
import subprocess
import sys
import tomllib

import pytest

from gateway.access import claims
from gateway.settings import load
from gateway.transport.http.bounded_head import HeadLimits
from protocol import limits
from tests.docs.pages import PAGES, ROOT, Page

ARCHITECTURE = Page(ROOT / "docs" / "architecture.md")
SECURITY = Page(ROOT / "docs" / "security.md")
PERFORMANCE = Page(ROOT / "docs" / "performance.md")


def test_documented_layers_are_those_of_the_import_linter() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = (each for each in project["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    checked = [sorted(re.findall(r"[\w.]+", layer)) for layer in contract["layers"]]
    documented = [sorted(re.findall(r"`([\w.]+)`", row[0])) for row in ARCHITECTURE.table("## The layers")]
    assert documented == checked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_documentation_exist(page: Page) -> None:
    named = re.findall(r"`((?:gateway|protocol|tests|bench|loadtests|examples|docs)/[\w./-]*)`", page.prose)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_documented_limits_are_those_of_the_code() -> None:
    words = " ".join(SECURITY.text.split())
    settings = load(None, complete=False)
    assert f"1 to {claims.USER_SIZE} characters" in words
    assert f"at most {claims.INFO_SIZE >> 10} KiB of JSON" in words
    assert f"at most {limits.TOKEN_SIZE:,} characters" in words
    assert f"`auth.max_ttl` ({settings.auth.max_ttl / 3600:g} h)" in words
    assert f"`auth.leeway` ({settings.auth.leeway:g} s)" in words
    head = HeadLimits()
    assert f"{head.size >> 10} KiB, then 431; {head.fields} fields, then 431" in words
    assert f"{head.target >> 10} KiB in the target, then 414" in words
    assert f"{limits.FRAGMENTS_PER_SECOND:,.0f} a second are read" in words
    assert f"{limits.CONTROL_FRAMES_PER_SECOND:g} control frames a second" in words
    assert f"then 1009; {limits.DEPTH} levels" in words
    for key, figure in re.findall(r"`limits\.(\w+)` \(([\d,]+)", SECURITY.text):
        if key != "message_size":
            assert getattr(settings.limits, key) == int(figure.replace(",", "")), key


def test_documented_options_of_the_benchmark_exist() -> None:
    command = [sys.executable, str(ROOT / "bench" / "compare.py"), "--help"]
    help_text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    options = [row[0].strip("`").split()[0] for row in PERFORMANCE.table("### Options")]
    assert sorted(options) == sorted(set(re.findall(r"--[a-z]+", help_text)) - {"--help"})
