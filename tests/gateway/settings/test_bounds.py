"""Every number that can be configured has bounds, and no value beyond them is accepted."""

from pathlib import Path

import pytest

from gateway.settings import Settings, load
from gateway.settings.descriptors import descriptor_plan
from gateway.settings.units import MAX_DURATION_SECONDS
from tests.gateway.settings.numbers import NUMBERS, Number
from tests.gateway.settings.settings_kit import KEYS, faults_of

every_number = pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.key)


def test_the_numbers_are_found() -> None:
    keys = {number.key for number in NUMBERS}
    assert {"node.workers", "listen.public.user_timeout", "limits.costs.history"} <= keys
    assert {"channels.default.history", "broker.memory", "drain.window"} <= keys


@every_number
def test_a_number_has_a_largest_and_a_smallest_value(number: Number) -> None:
    assert number.smallest is not None
    assert number.largest is not None
    assert number.smallest <= number.default <= number.largest < MAX_DURATION_SECONDS * 1_000_000


@every_number
def test_a_larger_number_is_a_fault_that_names_the_largest(number: Number, file: Path) -> None:
    assert number.largest is not None
    larger = type(number.default)(number.largest + 1)
    lines = faults_of(file, "", flags={**KEYS, number.key: larger})
    assert lines[0] == f"{number.key} = {larger}: too large; give at most {number.largest:.15g}"


TOO_LARGE = [
    'listen.public.user_timeout = "30d"',
    'listen.public.send_buffer = "4GiB"',
    "listen.public.backlog = 10000000000",
    'heartbeat.interval = "3650d"',
    "channels.default.history = 9223372036854775808",
]


@pytest.mark.parametrize("text", TOO_LARGE)
def test_what_the_system_does_not_take_is_a_fault(file: Path, text: str) -> None:
    (line,) = faults_of(file, text, flags=KEYS)
    assert line.startswith(f"{text.partition(' ')[0]} = ")
    assert ": too large; give at most " in line


def test_more_connections_than_file_descriptors_are_a_fault(file: Path) -> None:
    plan = descriptor_plan(Settings())
    available = plan.most_clients
    flags = {**KEYS, "limits.connections": available + 1}
    (line,) = faults_of(file, "", flags=flags)
    assert line == (
        f"limits.connections = {available + 1}: more than the {plan.limit} file descriptors of this process "
        "allow; "
        f"give at most {available}, or 0 for that, or raise `ulimit -n` "
        "(docs/operations.md#file-descriptors)"
    )
    settings = load(None, flags={**KEYS, "limits.connections": available})
    assert descriptor_plan(settings).clients == available == plan.clients


@pytest.mark.parametrize("key", ["push.idempotency_ttl", "broker.meta_ttl", "listen.public.user_timeout"])
def test_a_period_that_would_be_no_millisecond_is_a_fault(file: Path, key: str) -> None:
    assert faults_of(file, "", flags={**KEYS, key: 0.0001}) == [
        f"{key} = 0.0001: too small; give at least 0.001"
    ]


def test_an_interval_of_renewals_that_floods_redis_is_a_fault(file: Path) -> None:
    (line,) = faults_of(file, 'broker.beat = "1ms"', flags=KEYS)
    assert line == "broker.beat = 0.001: too small; give at least 0.1; 0 for a third of broker.lease"


def test_less_memory_than_its_parts_need_is_a_fault(file: Path) -> None:
    (line,) = faults_of(file, 'limits.memory = "1MiB"', flags=KEYS)
    assert line == (
        "limits.memory = 1048576: too small; give at least 16777216; 0 for a quarter of the machine's memory"
    )
