"""Durations, sizes, origins and URLs."""

import json
from pathlib import Path

import pytest

from gateway.settings.units import Address, redacted
from tests.gateway.settings.settings_kit import KEYS, SECRET, faults_of, loaded

DURATIONS = [
    ('"250ms"', 0.25),
    ('"10s"', 10.0),
    ('"5m"', 300.0),
    ('"1h30m"', 5400.0),
    ('"1h 30m"', 5400.0),
    ('"1.5h"', 5400.0),
    ('"1d"', 86400.0),
    ('"12"', 12.0),
    ("12", 12.0),
    ("0.5", 0.5),
]


@pytest.mark.parametrize(("text", "expected"), DURATIONS)
def test_a_duration_is_parsed(file: Path, text: str, expected: float) -> None:
    assert loaded(file, f"channels.default.history_ttl = {text}").channels.default.history_ttl == expected


@pytest.mark.parametrize(
    "text", ['""', '"5mm"', '"5 parsecs"', '"-5s"', '"m"', '"1e3s"', "true", "nan", "-1", '"9999999h"']
)
def test_an_invalid_duration_is_a_fault(file: Path, text: str) -> None:
    (line,) = faults_of(file, f"heartbeat.grace = {text}", flags=KEYS)
    assert line.startswith("heartbeat.grace = ")


SIZES = [
    ('"64KiB"', 65536),
    ('"1MiB"', 1 << 20),
    ('"1.5 kib"', 1536),
    ('"1GiB"', 1 << 30),
    ('"70000B"', 70000),
    ("70000", 70000),
]


@pytest.mark.parametrize(("text", "expected"), SIZES)
def test_a_size_is_parsed(file: Path, text: str, expected: int) -> None:
    assert loaded(file, f"broker.memory = {text}").broker.memory == expected


@pytest.mark.parametrize("text", ['""', '"64KB"', '"0.5B"', '"-1KiB"', "1.5", "true", "0"])
def test_an_invalid_size_is_a_fault(file: Path, text: str) -> None:
    (line,) = faults_of(file, f"broker.memory = {text}", flags=KEYS)
    assert line.startswith("broker.memory = ")


URLS = [
    ("redis://h", "redis://h"),
    (f"redis://u:{SECRET}@h:1/0", "redis://h:1"),
    (f"redis://:{SECRET}@{SECRET}@h", "redis://h"),
    (f"redis://:p/{SECRET}@h", "***"),
    (f"redis://:p?{SECRET}@h", "***"),
    (f"redis://h/0?password={SECRET}", "redis://h"),
    (f"unix:///run/redis?password={SECRET}", "unix://"),
    (SECRET, "***"),
    ("", ""),
]


@pytest.mark.parametrize(("url", "shown"), URLS)
def test_a_url_is_shown_without_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown
    assert repr(Address(url)) == f"Address('{shown}')"


def test_origins_and_the_asterisk_are_accepted(file: Path) -> None:
    origins = ["https://App.example.com:8443", "*", "null", "app://x", "http://[::1]:5173"]
    found = loaded(file, f"listen.public.allowed_origins = {json.dumps(origins)}")
    assert found.listen.public.allowed_origins == tuple(origins)
