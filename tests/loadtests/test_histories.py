"""The books where the server keeps no history, and where it loses one."""

from collections.abc import Callable

import pytest

from loadtests.ledger import Ledger
from loadtests.verdict import COLUMNS, judge
from tests.loadtests.test_ledger import CHANNEL, id_of

# ---------------------------------------------------------------- channels without history number nothing

Alter = Callable[[list[int]], list[int]]
UNNUMBERED: dict[str, tuple[Alter, dict[str, int]]] = {
    "nothing": (lambda numbers: numbers, {}),
    "the first lost": (lambda numbers: numbers[1:], {"lost": 1}),
    "one lost": (lambda numbers: numbers[:2] + numbers[3:], {"lost": 1}),
    "the last lost": (lambda numbers: numbers[:-1], {"lost": 1}),
    "all lost": (lambda _: [], {"lost": 5}),
    "one twice": (lambda numbers: [*numbers, numbers[0]], {"duplicated": 1}),
    "two swapped": (lambda numbers: [numbers[1], numbers[0], *numbers[2:]], {"reordered": 1}),
}


@pytest.mark.parametrize(("alter", "found"), UNNUMBERED.values(), ids=UNNUMBERED)
def test_without_offsets_the_publishers_own_numbers_tell(alter: Alter, found: dict[str, int]) -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), None)
    track = ledger.follow("anna", CHANNEL, None)
    for _ in range(5):
        ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), None)
    for number in alter([4, 5, 6, 7, 8]):
        ledger.arrived(track, "b", number, None)
    assert judge([ledger.statement()]).faults == found


def test_without_offsets_what_other_processes_sent_before_is_not_expected() -> None:
    publishers, subscribers = Ledger(), Ledger()
    for _ in range(5):
        publishers.acknowledge(CHANNEL, "b", publishers.attempt(CHANNEL, "b"), None)
    track = subscribers.follow("anna", CHANNEL, None)
    assert not judge([publishers.statement(), subscribers.statement()]).faults
    subscribers.arrived(track, "b", 4, None)
    assert judge([publishers.statement(), subscribers.statement()]).faults == {"lost": 1}


def test_the_sums_of_a_verdict_are_those_of_its_channels() -> None:
    ledger = Ledger()
    for channel in ("c", "d"):
        ledger.acknowledge(channel, "b", ledger.attempt(channel, "b"), id_of(1))
    verdict = judge([ledger.statement()])
    assert set(verdict.channels) == {"c", "d"}
    assert verdict.totals == {**dict.fromkeys(COLUMNS, 0), "published": 2}


# ---------------------------------------------------------------- a history that is lost


def restarted(*, told: bool) -> dict[str, int]:
    """Return the faults where a server lost its history after two messages, and two more were published."""
    ledger = Ledger()
    track = ledger.follow("anna", CHANNEL, id_of(0))
    for offset in (1, 2):
        ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), id_of(offset))
    ledger.arrived(track, "b", 1, id_of(1))
    if told:
        ledger.was_told(track, id_of(0, "new"))
    for number, offset in ((3, 1), (4, 2)):
        ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), id_of(offset, "new"))
        ledger.arrived(track, "b", number, id_of(offset, "new"))
    assert not ledger.outstanding()
    return dict(judge([ledger.statement()]).faults)


def test_a_server_that_lost_its_history_and_says_so_has_lost_nothing_silently() -> None:
    assert not restarted(told=True)


def test_a_server_that_lost_its_history_and_says_nothing_is_found_out() -> None:
    assert restarted(told=False)["misnumbered"] == 1


def test_who_never_hears_of_a_new_history_has_lost_it() -> None:
    ledger = Ledger()
    ledger.follow("anna", CHANNEL, id_of(0))
    ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), id_of(1))
    ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), id_of(1, "new"))
    assert judge([ledger.statement()]).faults == {"lost": 2}


def test_what_is_published_again_into_a_new_history_is_no_duplicate() -> None:
    """Its key was lost with the history, and its publisher had no answer."""
    ledger = Ledger()
    track = ledger.follow("anna", CHANNEL, id_of(0))
    number = ledger.attempt(CHANNEL, "b")
    ledger.arrived(track, "b", number, id_of(1))
    ledger.was_told(track, id_of(0, "new"))
    ledger.acknowledge(CHANNEL, "b", number, id_of(1, "new"))
    ledger.arrived(track, "b", number, id_of(1, "new"))
    assert not judge([ledger.statement()]).faults
