"""gateway.toml lists every key with its default, and explains it."""

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gateway.settings import ConfigError, Settings, load
from gateway.settings.faults import keys

GATEWAY_TOML = Path(__file__).parents[3] / "gateway.toml"


def uncommented() -> str:
    return re.sub(r"^#(?=[\[\w])", "", GATEWAY_TOML.read_text(), flags=re.MULTILINE)


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in table.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def values(model: BaseModel, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        found |= values(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {prefix + name: value}
    return found


def test_the_file_lists_every_key_and_no_other() -> None:
    assert sorted(flat(tomllib.loads(uncommented()))) == sorted(keys())


def test_the_file_shows_the_defaults() -> None:
    assert values(Settings(**tomllib.loads(uncommented()))) == values(Settings())


def test_the_file_explains_every_key() -> None:
    lines = uncommented().splitlines()
    bare = [
        line
        for above, line in itertools.pairwise(lines)
        if "=" in line and line[0] != "#" and above[:2] != "# "
    ]
    assert bare == []


def test_the_unchanged_file_leaves_dev_mode_open() -> None:
    settings = load(GATEWAY_TOML, dev=True)
    assert settings.dev_opens_default
    assert settings == load(None, dev=True).model_copy(
        update={"auth": settings.auth, "channels": settings.channels}
    )


def test_the_unchanged_file_lacks_only_keys() -> None:
    with pytest.raises(ConfigError) as caught:
        load(GATEWAY_TOML)
    assert [fault.key for fault in caught.value.faults] == ["auth.secret", "push.keys"]
