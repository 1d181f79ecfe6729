"""docs/configuration.md names every key of gateway.toml, and its default; nothing else."""

import re
import tomllib
from typing import Any

import pytest

from gateway.settings import faults, load
from tests.docs.pages import ROOT, Page

PAGE = Page(ROOT / "docs" / "configuration.md")
FILE = (ROOT / "gateway.toml").read_text()
SECTIONS = re.findall(r"^### (\[[a-z.]+\])$", PAGE.text, re.MULTILINE)
# The file shows what is switched off behind a "#" that touches it.
EVERYTHING: dict[str, Any] = tomllib.loads(re.sub(r"^#(?=\S)", "", FILE, flags=re.MULTILINE))


def described() -> dict[str, str]:
    """Return every key of the page, dotted, with its default as it is written there."""
    return {
        f"{section[1:-1]}.{key.strip('`')}": default.strip("`")
        for section in SECTIONS
        for key, default, _ in PAGE.table(f"### {section}")
    }


def flattened(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def test_documented_keys_are_those_of_the_file() -> None:
    assert described().keys() == flattened(EVERYTHING).keys() == set(faults.keys())


@pytest.mark.parametrize("key", described())
def test_documented_defaults_are_those_of_the_file(key: str) -> None:
    assert tomllib.loads(f"value = {described()[key]}")["value"] == flattened(EVERYTHING)[key]


def test_every_key_is_explained() -> None:
    for section in SECTIONS:
        for key, _, meaning in PAGE.table(f"### {section}"):
            assert meaning, key


def test_sections_have_the_order_of_the_file() -> None:
    assert re.findall(r"^#?(\[[a-z.]+\])$", FILE, re.MULTILINE) == SECTIONS


def test_documented_variables_set_the_keys_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for toml, environment in PAGE.table("## Where settings come from"):
        table, pair = re.findall(r"`([^`]+)`", toml)
        expected = flattened(tomllib.loads(f"{table}\n{pair}"))
        for assignment in re.findall(r"`([^`]+)`", environment):
            name, _, value = assignment.partition("=")
            with monkeypatch.context() as environ:
                environ.setenv(name, value)
                loaded = flattened(load(None, complete=False).model_dump())
            for key, wanted in expected.items():
                value = loaded[key]
                plain = [each.get_secret_value() for each in value] if isinstance(value, tuple) else value
                assert plain == wanted, assignment
