"""The settings as a whole: rules of namespaces, names, what is shown."""

import json
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway.settings import load
from tests.gateway.settings.settings_kit import KEYS, SECRET, loaded

CLOSED = ("authenticated", "nobody", 0, 300.0, False, False, "catch_up")


OPENED = ("anyone", "anyone", 100, 300.0, True, True, "catch_up")


RULES: list[tuple[str, bool, dict[str, tuple[object, ...]]]] = [
    ("", False, {"default": CLOSED}),
    ("", True, {"default": OPENED}),
    ("[channels]\nstrict = true", True, {"default": OPENED}),
    ("[channels.default]", True, {"default": CLOSED}),
    (
        "[channels.default]\npresence = true",
        True,
        {"default": ("authenticated", "nobody", 0, 300.0, True, False, "catch_up")},
    ),
    (
        '[channels.bench]\nsubscribe = "anyone"\nhistory = 8',
        True,
        {"default": OPENED, "bench": ("anyone", "nobody", 8, 300.0, False, False, "catch_up")},
    ),
    ("[channels.bench]", True, {"default": OPENED, "bench": CLOSED}),
    (
        (
            '[channels.chat]\npublish = "anyone"\n'
            '[channels.default]\nhistory = 9\nhistory_ttl = "1m"\non_slow = "conflate"'
        ),
        False,
        {
            "default": ("authenticated", "nobody", 9, 60.0, False, False, "conflate"),
            "chat": ("authenticated", "anyone", 9, 60.0, False, False, "conflate"),
        },
    ),
]


@pytest.mark.parametrize(("text", "dev", "rules"), RULES)
def test_namespaces_inherit_from_the_default(
    file: Path, text: str, dev: bool, rules: dict[str, tuple[object, ...]]
) -> None:
    found = loaded(file, text, dev=dev).namespaces()
    assert {name: each.namespace for name, each in found.items()} == {name: name for name in rules}
    assert {
        name: (r.subscribe, r.publish, r.history, r.history_ttl, r.presence, r.join_leave, r.on_slow)
        for name, r in found.items()
    } == rules


def test_variables_override_single_rules_of_dev_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANWAY_CHANNELS__DEFAULT__HISTORY", "7")
    rules = load(None, dev=True).namespaces()["default"]
    assert (rules.subscribe, rules.history) == ("anyone", 7)


def test_repr_shows_no_secret(file: Path) -> None:
    text = f'broker.kind = "redis"\nbroker.urls = ["redis://me:{SECRET}@redis.example.com/0"]'
    settings = loaded(file, text)
    assert (
        SECRET
        not in repr(settings) + str(settings) + repr(settings.model_dump()) + settings.model_dump_json()
    )
    assert "redis://redis.example.com" in repr(settings.broker)
    assert settings.broker.addresses() == (f"redis://me:{SECRET}@redis.example.com/0",)
    assert settings.auth.secret == SecretStr(SECRET)


def test_the_node_name_defaults_to_the_host_name() -> None:
    assert load(None, flags={**KEYS, "node.name": "a-1"}).node_name() == "a-1"
    assert re.fullmatch(r"[A-Za-z0-9_.~-]{1,64}", load(None, flags=KEYS).node_name())


def test_settings_are_plain_values() -> None:
    assert json.loads(load(None, dev=True).model_dump_json())["limits"]["costs"]["history"] == 4
