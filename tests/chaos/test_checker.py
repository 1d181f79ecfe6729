"""The checker finds every fault that is planted into a history, and none where nothing was planted."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.chaos import planted_faults, seeds
from tests.chaos.checker import check
from tests.chaos.history import (
    Asked,
    Attempted,
    Delivered,
    Event,
    Gap,
    Heard,
    Left,
    Reset,
    Resolved,
    Result,
    Subscribed,
)
from tests.chaos.model import Model
from tests.chaos.scene import NoPlace, Planted, Scene
from tests.chaos.verdict import Fault, Kind, Told

bounded = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def histories(*, least: int, most: int) -> st.SearchStrategy[list[Event]]:
    """Histories of so many steps in which nothing is wrong."""
    return st.builds(
        lambda seed, clients, channels, keeps, steps: Model(
            Random(seed), clients=clients, channels=channels, keeps=keeps
        ).run(steps),
        seed=st.integers(0, 2**32),
        clients=st.integers(1, 4),
        channels=st.integers(1, 3),
        keeps=st.integers(1, 12),
        steps=st.integers(least, most),
    )


@settings(bounded, max_examples=400)
@given(histories(least=0, most=250))
def test_where_nothing_is_wrong_nothing_is_found(events: list[Event]) -> None:
    verdict = check(events)
    assert verdict.clean, verdict


@pytest.mark.parametrize("plant", [*seeds.SEEDS, *planted_faults.SEEDS], ids=lambda plant: plant.__name__)
def test_every_planted_fault_is_found(plant: Callable[[Scene], Planted]) -> None:
    found = 0

    @settings(bounded, max_examples=40)
    @given(histories(least=150, most=250), st.integers(0, 2**32))
    def attempt(events: list[Event], seed: int) -> None:
        nonlocal found
        try:
            broken, expected = plant(Scene(events, Random(seed)))
        except NoPlace:
            assume(False)
        verdict = check(broken)
        assert expected.among(verdict.faults), f"{expected}\n{verdict}"
        found += 1

    attempt()
    assert found >= 10, "histories have too few places for it"


# ---------------------------------------------------------------- told by hand, each for one point


def published(*names: str, ids: str = "", channel: str = "c") -> list[Event]:
    """Publishes one after the other, acknowledged under *ids*."""
    return [
        event
        for name, id in zip(names, ids.split(), strict=True)
        for event in (Attempted(name, channel), Resolved(name, Result.OK, id))
    ]


def got(client: str, id: str, name: str) -> Event:
    return Delivered(client, "c", Heard(id, name))


def joined(client: str, position: str, *, since: str | None = None, recovered: bool = False) -> list[Event]:
    return [Asked(client, "c", since), Subscribed(client, "c", position, recovered)]


BEFORE = [
    *joined("k", "0-z"),
    *published("m1", "m2", ids="1-a 2-b"),
    got("k", "1-a", "m1"),
    got("k", "2-b", "m2"),
    Left("k"),
]
"""A client heard two messages and lost its connection."""


def test_a_restart_that_is_told_is_in_order() -> None:
    verdict = check(
        [
            *BEFORE,
            Reset(),
            *joined("k", "0-y", since="2-b"),
            *published("n1", ids="1-n"),
            got("k", "1-n", "n1"),
        ]
    )
    assert verdict.clean, verdict
    assert verdict.told == (Told("k", "c", "recovered: false"),)
    assert verdict.published == {"ok": 3}
    assert verdict.delivered == 3


def test_a_second_history_needs_a_reset() -> None:
    verdict = check(
        [*BEFORE, *joined("k", "0-y", since="2-b"), *published("n1", ids="1-n"), got("k", "1-n", "n1")]
    )
    assert Kind.DIVERGING in verdict.kinds


def test_one_reset_makes_room_for_one_more_history() -> None:
    """Two nodes that number for themselves after a failover are found, though one of them may."""
    verdict = check(
        [
            *BEFORE,
            Reset(),
            *published("n1", "o1", ids="1-n 1-o"),
            *joined("k", "1-n", since="2-b"),
            *joined("l", "1-o"),
        ]
    )
    assert {(fault.kind, fault.ids) for fault in verdict.faults} == {(Kind.DIVERGING, ("1-a", "1-n", "1-o"))}


def test_a_reset_of_one_channel_excuses_no_other() -> None:
    again = [*joined("k", "0-y", since="2-b"), *published("n1", ids="1-n"), got("k", "1-n", "n1")]
    assert check([*BEFORE, Reset("c"), *again]).clean
    assert not check([*BEFORE, Reset("d"), *again]).clean


def test_a_history_that_changes_under_a_client_is_found_where_numbers_go_on() -> None:
    """The store lost message 2 and gave its number to another; who waited there goes on with the other 3."""
    verdict = check(
        [
            *BEFORE,
            Reset(),
            Attempted("n2", "c"),
            *joined("l", "1-a"),
            Attempted("n3", "c"),
            got("l", "2-n", "n2"),
            got("l", "3-n", "n3"),
            *joined("k", "2-b", since="2-b", recovered=True),
            got("k", "3-n", "n3"),
        ]
    )
    assert [(fault.kind, fault.client, fault.ids) for fault in verdict.faults] == [
        (Kind.SILENT, "k", ("2-b", "3-n"))
    ]


def test_numbers_that_begin_anew_untold_are_a_silent_break() -> None:
    """Not a disorder: everything that comes is in its order, only of another history."""
    again = [*published("n1", "n2", ids="1-n 2-n"), got("k", "1-n", "n1"), got("k", "2-n", "n2")]
    verdict = check([*BEFORE[:-1], Reset(), *again])
    assert [(fault.kind, fault.client, fault.ids) for fault in verdict.faults] == [
        (Kind.SILENT, "k", ("2-b", "1-n"))
    ]


def test_who_recovers_a_history_that_is_gone_is_owed_to_be_told() -> None:
    """Another node numbers anew, and acknowledges, before the client's own finds out."""
    recovered = [*joined("k", "0-z"), Left("k"), Reset(), *published("n1", ids="1-n")]
    recovered += joined("k", "0-z", since="0-z", recovered=True)
    assert check([*recovered, Gap("k", "c", "reset", "1-n")]).clean
    assert check([*recovered, Left("k"), *joined("k", "1-n", since="0-z")]).clean
    for silent in ([], [Left("k")], [Gap("k", "c", "overflow", "1-n")]):
        assert check([*recovered, *silent]).kinds == {Kind.LOST}, silent
    late = [*published("n2", ids="2-o"), got("k", "2-o", "n2"), Gap("k", "c", "reset", "2-p")]
    assert Kind.LOST in check([*recovered, *late]).kinds


def test_nothing_is_owed_to_who_is_not_there() -> None:
    assert check([*BEFORE, *published("m3", ids="3-c")]).clean


def test_what_was_under_way_while_a_client_came_may_lie_on_either_side() -> None:
    """It was attempted before the answer: the position tells that it is in front of the stream, or behind."""
    coming = [Attempted("m1", "c"), *joined("k", "1-a"), Resolved("m1", Result.OK, "1-a")]
    assert check(coming).clean
    behind = [Attempted("m1", "c"), *joined("k", "0-z"), Resolved("m1", Result.OK, "1-a")]
    assert check(behind).kinds == {Kind.LOST}
    assert check([*behind, got("k", "1-a", "m1")]).clean


def test_without_a_history_nothing_is_owed_but_nothing_comes_twice() -> None:
    events = joined("k", "")
    for name in ("m1", "m2"):
        events += [Attempted(name, "c"), Resolved(name, Result.OK)]
    assert check([*events, got("k", "", "m2")]).clean
    verdict = check([*events, got("k", "", "m2"), got("k", "", "m2")])
    assert verdict.faults == (Fault(Kind.DUPLICATED, "c", "k", ("m2",), "m2 after m2"),)


def test_two_publishes_of_one_name_are_a_mistake_of_the_test() -> None:
    with pytest.raises(ValueError, match="name of its own"):
        check([Attempted("m1", "c"), Attempted("m1", "c")])


def test_a_verdict_names_channel_client_and_ids() -> None:
    text = str(check([*BEFORE[:-1], got("k", "2-b", "m2")]))
    assert "1 duplicated (2 ok, 3 delivered, 0 told)" in text
    assert "duplicated in c at k: 2-b: m2 after m2" in text
    many = str(check([*joined("k", "0-z"), *(got("k", f"{n}-x", f"ghost {n}") for n in range(1, 61))]))
    assert "60 phantom" in many
    assert "… and 35 more" in many
    assert "nothing wrong" in str(check([]))
