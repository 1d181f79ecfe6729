"""How file descriptors are divided, and what is said of too few."""

import resource

import pytest

from gateway.settings import ConfigError, Settings, load
from gateway.settings.descriptors import DescriptorPlan, descriptor_plan
from gateway.settings.setting_warnings import warnings

CLUSTER = {"broker.kind": "redis", "broker.url": "redis://h", "broker.cluster": True}


@pytest.mark.parametrize("flags", [{}, {"limits.connections": 50}, CLUSTER])
@pytest.mark.parametrize("limit", [200, 300, 1_024, 20_000, 1_048_576])
def test_the_parts_are_no_more_than_the_whole(limit: int, flags: dict[str, object]) -> None:
    plan = descriptor_plan(load(None, dev=True, flags=flags), limit)
    assert plan.own + plan.backends + plan.public <= limit
    assert plan.clients + plan.spare <= plan.public
    assert min(plan.backends, plan.spare, plan.clients) > 0


def test_the_plan_of_a_usual_login() -> None:
    assert descriptor_plan(Settings(), 1_024) == DescriptorPlan(
        limit=1_024, own=73, backends=118, public=833, spare=104, clients=729
    )


def test_connections_of_backends_may_be_configured() -> None:
    plan = descriptor_plan(load(None, dev=True, flags={"listen.internal.connections": 500}), 1_024)
    assert (plan.backends, plan.public) == (500, 451)


@pytest.fixture
def few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))


@pytest.mark.usefixtures("few_descriptors")
def test_too_few_for_anything_are_a_fault() -> None:
    with pytest.raises(ConfigError, match="file descriptors = 64: too few: the gateway itself needs 73"):
        load(None, dev=True)


def test_fewer_than_usual_are_a_warning_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (300, 300))
    (line,) = [str(each) for each in warnings(load(None, dev=True))]
    assert line == (
        "file descriptors = 300: enough for 175 clients and 28 connections of backends; "
        "raise `ulimit -n` (docs/operations.md#file-descriptors)"
    )
