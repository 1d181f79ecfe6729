"""The checker reports every planted fault, and no violation in clean histories."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.chaos import planted_faults
from tests.chaos.checker import check
from tests.chaos.clean_history import CleanHistory, NoPlace, PlantedFault
from tests.chaos.history import (
    Delivered,
    Event,
    Gap,
    HistoryReset,
    PublishAttempted,
    PublishResolved,
    PublishResult,
    ReceivedMessage,
    Subscribed,
    SubscribeSent,
    SubscriptionEnded,
)
from tests.chaos.history_generator import HistoryGenerator
from tests.chaos.verdict import LossNotice, Violation, ViolationKind

WITHOUT_TIME_LIMIT = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def histories(*, min_steps: int, max_steps: int) -> st.SearchStrategy[list[Event]]:
    """Clean histories of *min_steps* to *max_steps* steps."""
    return st.builds(
        lambda seed, clients, channels, history_size, steps: HistoryGenerator(
            Random(seed), clients=clients, channels=channels, history_size=history_size
        ).run(steps),
        seed=st.integers(0, 2**32),
        clients=st.integers(1, 4),
        channels=st.integers(1, 3),
        history_size=st.integers(1, 12),
        steps=st.integers(min_steps, max_steps),
    )


@settings(WITHOUT_TIME_LIMIT, max_examples=400)
@given(histories(min_steps=0, max_steps=250))
def test_clean_history_has_no_violations(events: list[Event]) -> None:
    verdict = check(events)
    assert verdict.clean, verdict


@pytest.mark.parametrize("plant", planted_faults.PLANTED_FAULTS, ids=lambda plant: plant.__name__)
def test_every_planted_fault_is_found(plant: Callable[[CleanHistory], PlantedFault]) -> None:
    found = 0

    @settings(WITHOUT_TIME_LIMIT, max_examples=40)
    @given(histories(min_steps=150, max_steps=250), st.integers(0, 2**32))
    def attempt(events: list[Event], seed: int) -> None:
        nonlocal found
        try:
            broken, expected = plant(CleanHistory(events, Random(seed)))
        except NoPlace:
            assume(False)
        verdict = check(broken)
        assert expected.is_among(verdict.violations), f"{expected}\n{verdict}"
        found += 1

    attempt()
    assert found >= 10, "too few of the histories have a place for this fault"


# ---------------------------------------------------------------- histories written by hand


def published(*names: str, ids: str = "", channel: str = "c") -> list[Event]:
    """Sequential publishes, acknowledged with *ids*."""
    return [
        event
        for name, id in zip(names, ids.split(), strict=True)
        for event in (PublishAttempted(name, channel), PublishResolved(name, PublishResult.OK, id))
    ]


def delivered(client: str, id: str, name: str) -> Event:
    return Delivered(client, "c", ReceivedMessage(id, name))


def subscribed(
    client: str, position: str, *, since: str | None = None, recovered: bool = False
) -> list[Event]:
    return [SubscribeSent(client, "c", since), Subscribed(client, "c", position, recovered)]


BEFORE = [
    *subscribed("k", "0-z"),
    *published("m1", "m2", ids="1-a 2-b"),
    delivered("k", "1-a", "m1"),
    delivered("k", "2-b", "m2"),
    SubscriptionEnded("k"),
]
"""A client received two messages and lost its connection."""


def test_restart_with_a_notice_is_clean() -> None:
    verdict = check(
        [
            *BEFORE,
            HistoryReset(),
            *subscribed("k", "0-y", since="2-b"),
            *published("n1", ids="1-n"),
            delivered("k", "1-n", "n1"),
        ]
    )
    assert verdict.clean, verdict
    assert verdict.notices == (LossNotice("k", "c", "recovered: false"),)
    assert verdict.published == {"ok": 3}
    assert verdict.delivered == 3


def test_new_numbering_without_a_reset_is_a_violation() -> None:
    verdict = check(
        [
            *BEFORE,
            *subscribed("k", "0-y", since="2-b"),
            *published("n1", ids="1-n"),
            delivered("k", "1-n", "n1"),
        ]
    )
    assert ViolationKind.DIVERGING in verdict.kinds


def test_one_reset_allows_one_new_numbering() -> None:
    """Two nodes that both assign numbers after a failover are reported: only one of them may."""
    verdict = check(
        [
            *BEFORE,
            HistoryReset(),
            *published("n1", "o1", ids="1-n 1-o"),
            *subscribed("k", "1-n", since="2-b"),
            *subscribed("l", "1-o"),
        ]
    )
    assert {(each.kind, each.ids) for each in verdict.violations} == {
        (ViolationKind.DIVERGING, ("1-a", "1-n", "1-o"))
    }


def test_reset_of_one_channel_does_not_excuse_another() -> None:
    again = [*subscribed("k", "0-y", since="2-b"), *published("n1", ids="1-n"), delivered("k", "1-n", "n1")]
    assert check([*BEFORE, HistoryReset("c"), *again]).clean
    assert not check([*BEFORE, HistoryReset("d"), *again]).clean


def test_replaced_history_is_found_where_numbers_continue() -> None:
    """The store lost message 2 and assigned its number again; a client at the lost 2 receives the new 3."""
    verdict = check(
        [
            *BEFORE,
            HistoryReset(),
            PublishAttempted("n2", "c"),
            *subscribed("l", "1-a"),
            PublishAttempted("n3", "c"),
            delivered("l", "2-n", "n2"),
            delivered("l", "3-n", "n3"),
            *subscribed("k", "2-b", since="2-b", recovered=True),
            delivered("k", "3-n", "n3"),
        ]
    )
    assert [(violation.kind, violation.client, violation.ids) for violation in verdict.violations] == [
        (ViolationKind.SILENT, "k", ("2-b", "3-n"))
    ]


def test_numbers_that_begin_anew_without_a_notice_are_silent() -> None:
    """Not `reordered`: everything arrives in order, but it belongs to another history."""
    again = [*published("n1", "n2", ids="1-n 2-n"), delivered("k", "1-n", "n1"), delivered("k", "2-n", "n2")]
    verdict = check([*BEFORE[:-1], HistoryReset(), *again])
    assert [(violation.kind, violation.client, violation.ids) for violation in verdict.violations] == [
        (ViolationKind.SILENT, "k", ("2-b", "1-n"))
    ]


def test_client_that_recovers_a_lost_history_must_get_a_notice() -> None:
    """Another node begins new numbers, and acknowledges, before the client's node notices the loss."""
    recovered = [*subscribed("k", "0-z"), SubscriptionEnded("k"), HistoryReset(), *published("n1", ids="1-n")]
    recovered += subscribed("k", "0-z", since="0-z", recovered=True)
    assert check([*recovered, Gap("k", "c", "reset", "1-n")]).clean
    assert check([*recovered, SubscriptionEnded("k"), *subscribed("k", "1-n", since="0-z")]).clean
    for silent in ([], [SubscriptionEnded("k")], [Gap("k", "c", "overflow", "1-n")]):
        assert check([*recovered, *silent]).kinds == {ViolationKind.LOST}, silent
    late = [*published("n2", ids="2-o"), delivered("k", "2-o", "n2"), Gap("k", "c", "reset", "2-p")]
    assert ViolationKind.LOST in check([*recovered, *late]).kinds


def test_unsubscribed_client_may_miss_messages() -> None:
    assert check([*BEFORE, *published("m3", ids="3-c")]).clean


def test_publish_concurrent_with_a_subscribe_may_be_before_or_after_its_position() -> None:
    """It was attempted before the answer: the position says whether the segment begins before or after it."""
    coming = [
        PublishAttempted("m1", "c"),
        *subscribed("k", "1-a"),
        PublishResolved("m1", PublishResult.OK, "1-a"),
    ]
    assert check(coming).clean
    behind = [
        PublishAttempted("m1", "c"),
        *subscribed("k", "0-z"),
        PublishResolved("m1", PublishResult.OK, "1-a"),
    ]
    assert check(behind).kinds == {ViolationKind.LOST}
    assert check([*behind, delivered("k", "1-a", "m1")]).clean


def test_channel_without_history_may_lose_but_not_duplicate() -> None:
    events = subscribed("k", "")
    for name in ("m1", "m2"):
        events += [PublishAttempted(name, "c"), PublishResolved(name, PublishResult.OK)]
    assert check([*events, delivered("k", "", "m2")]).clean
    verdict = check([*events, delivered("k", "", "m2"), delivered("k", "", "m2")])
    assert verdict.violations == (Violation(ViolationKind.DUPLICATED, "c", "k", ("m2",), "m2 after m2"),)


def test_two_publishes_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match="name of its own"):
        check([PublishAttempted("m1", "c"), PublishAttempted("m1", "c")])


def test_verdict_names_channel_client_and_ids() -> None:
    text = str(check([*BEFORE[:-1], delivered("k", "2-b", "m2")]))
    assert "1 duplicated (2 ok, 3 delivered, 0 notices)" in text
    assert "duplicated in c at k: 2-b: m2 after m2" in text
    many = str(
        check([*subscribed("k", "0-z"), *(delivered("k", f"{n}-x", f"ghost {n}") for n in range(1, 61))])
    )
    assert "60 phantom" in many
    assert "… and 35 more" in many
    assert "no violations" in str(check([]))
