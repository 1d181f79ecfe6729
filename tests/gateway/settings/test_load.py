"""Where settings come from: flags, environment, file and defaults."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import ConfigError, load
from tests.gateway.settings.settings_kit import KEYS, SECRET, faults_of, loaded

UNREADABLE = [
    (b"[auth\n", r"not TOML: .*line 1.*; see https://toml.io"),
    (b"\xff\xfe", "not UTF-8; save it as UTF-8"),
]


@pytest.mark.parametrize(("content", "problem"), UNREADABLE)
def test_a_file_that_is_not_toml_is_a_fault(file: Path, content: bytes, problem: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^{file}: {problem}$"):
        load(file)


def test_a_missing_file_is_a_fault(file: Path) -> None:
    with pytest.raises(
        ConfigError, match=f"^{file}: No such file or directory; name a file that can be read$"
    ):
        load(file)


def test_flags_override_the_environment_the_file_and_the_defaults(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FANWAY_LISTEN__PUBLIC__PORT", "2")
    monkeypatch.setenv("FANWAY_LISTEN__INTERNAL__PORT", "2")
    text = 'listen.public = {port = 1, backlog = 1}\nlisten.internal = {port = 1, host = "::1"}\n'
    listen = loaded(file, text, flags={"listen.public.port": 3, "listen.internal.port": None}).listen
    assert (listen.public.port, listen.internal.port) == (3, 2)
    assert (listen.public.backlog, listen.public.listeners) == (1, 8)
    assert (listen.internal.host, listen.public.host) == ("::1", "127.0.0.1")


ENVIRONMENT = [
    ("FANWAY_AUTH__AUDIENCE", "a,b", "auth.audience", "a,b"),
    ("FANWAY_AUTH__ANONYMOUS", "true", "auth.anonymous", True),
    ("fanway_node__workers", "1", "node.workers", 1),
    ("FANWAY_HEARTBEAT__GRACE", "1m30s", "heartbeat.grace", 90.0),
    ("FANWAY_HEARTBEAT__GRACE", "2.5", "heartbeat.grace", 2.5),
    ("FANWAY_OUTBOX__SIZE", "2MiB", "outbox.size", 2 << 20),
    ("FANWAY_LIMITS__COSTS__PUBLISH", "7", "limits.costs.publish", 7),
    (
        "FANWAY_LISTEN__PUBLIC__ALLOWED_ORIGINS",
        "https://a, https://b",
        "listen.public.allowed_origins",
        ("https://a", "https://b"),
    ),
    (
        "FANWAY_LISTEN__PUBLIC__ALLOWED_ORIGINS",
        '["https://a"]',
        "listen.public.allowed_origins",
        ("https://a",),
    ),
    ("FANWAY_LISTEN__PUBLIC__ALLOWED_ORIGINS", "", "listen.public.allowed_origins", ()),
    (
        "FANWAY_LISTEN__PUBLIC__TRUSTED_PROXIES",
        "10.0.0.0/8,::1",
        "listen.public.trusted_proxies",
        (ip_network("10.0.0.0/8"), ip_network("::1")),
    ),
    ("FANWAY_CHANNELS__STRICT", "1", "channels.strict", True),
    ("FANWAY_CHANNELS__DEFAULT__HISTORY", "5", "channels.default.history", 5),
]


@pytest.mark.parametrize(("name", "value", "key", "expected"), ENVIRONMENT)
def test_a_variable_sets_a_key(
    name: str, value: str, key: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    found: Any = load(None, flags=KEYS)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == expected


def test_variables_set_keys_of_namespaces_whatever_their_case(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FANWAY_CHANNELS__CHAT__HISTORY", "5")
    monkeypatch.setenv("FANWAY_CHANNELS__NEWS__HISTORY", "6")
    rules = loaded(file, "[channels.Chat]\nhistory = 1\npresence = true").namespaces()
    assert sorted(rules) == ["Chat", "default", "news"]
    assert (rules["Chat"].history, rules["Chat"].presence, rules["news"].history) == (5, True, 6)


ENVIRONMENT_FAULTS = [
    (
        "FANWAY_AUTH__SECERT",
        SECRET,
        "auth.secert: unknown key (from FANWAY_AUTH__SECERT); did you mean auth.secret?",
    ),
    (
        "FANWAY_NODE__WORKERS",
        "few",
        'node.workers = "few": not a whole number (from FANWAY_NODE__WORKERS); write a whole number',
    ),
    ("FANWAY_LOG", "debug", "FANWAY_LOG: a section, not a key; set FANWAY_LOG__<KEY>"),
    (
        "FANWAY_LOGS__LEVEL",
        "debug",
        (
            "FANWAY_LOGS__LEVEL: unknown section; known are auth, broker, channels, drain, heartbeat, "
            "limits, listen, log, node, outbox, push"
        ),
    ),
    (
        "FANWAY_DEV__X",
        "1",
        (
            "FANWAY_DEV__X: unknown section; known are auth, broker, channels, drain, heartbeat, "
            "limits, listen, log, node, outbox, push"
        ),
    ),
]


@pytest.mark.parametrize(("name", "value", "line"), ENVIRONMENT_FAULTS)
def test_a_fault_names_the_variable_that_set_the_value(
    name: str, value: str, line: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert faults_of(file, "", flags=KEYS) == [line]


def test_other_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANWAY_PORT", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("FANWAY_PORT_8000_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("FANWAY_DEV", "true")
    monkeypatch.setenv("FANWAY_OPENED", "true")
    settings = load(None, flags=KEYS)
    assert (settings.listen.public.port, settings.dev, settings.dev_opens_default) == (8000, False, False)


def test_dev_mode_admits_anonymous_connections(file: Path) -> None:
    file.write_text('push.keys = ["mine"]')
    settings, other = load(file, dev=True), load(None, dev=True)
    assert settings.dev
    assert settings.dev_made_secret
    assert settings.auth.anonymous
    assert [key.get_secret_value() for key in settings.push.keys] == ["mine", "dev"]
    secrets = {each.auth.secret.get_secret_value() for each in (settings, other)}
    assert len(secrets) == 2
    assert min(map(len, secrets)) >= 32


def test_dev_mode_keeps_the_configured_secret(file: Path) -> None:
    settings = loaded(file, "", dev=True)
    assert settings.auth.secret.get_secret_value() == SECRET
    assert not settings.dev_made_secret
    file.write_text('auth.jwks_url = "https://h/keys"')
    assert load(file, dev=True).auth.key_sources() == ["jwks_url"]
