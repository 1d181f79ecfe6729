"""What the checker says of an application on a client library, if the library breaks a promise."""

from collections.abc import Callable

import pytest

from tests.chaos.checker import check
from tests.chaos.history import History, PublishAttempted, PublishResolved, PublishResult
from tests.chaos.library.observed_channel import ObservedChannel
from tests.chaos.publisher import publish_data
from tests.chaos.verdict import ViolationKind


def published(history: History, number: int) -> tuple[str, object]:
    """Publish message *number* of the channel; return its id and data."""
    history.record(PublishAttempted(f"m{number}", "c"))
    history.record(PublishResolved(f"m{number}", PublishResult.OK, f"{number}-u"))
    return f"{number}-u", publish_data(f"m{number}", 5)


def hand_over(seen: ObservedChannel, messages: list[tuple[str, object]]) -> None:
    for id, data in messages:
        seen.on_message(id, data, seen.position or "0-u")


Breach = Callable[[ObservedChannel, list[tuple[str, object]]], None]


def all_of(seen: ObservedChannel, messages: list[tuple[str, object]]) -> None:
    hand_over(seen, messages)


def gap_in_between(seen: ObservedChannel, messages: list[tuple[str, object]]) -> None:
    hand_over(seen, messages[:1])
    seen.on_gap("trimmed", messages[2][0])
    hand_over(seen, messages[3:])


def state_loaded(seen: ObservedChannel, messages: list[tuple[str, object]]) -> None:
    seen.on_loaded(messages[1][0])
    hand_over(seen, messages[2:])


def one_left_out(seen: ObservedChannel, messages: list[tuple[str, object]]) -> None:
    hand_over(seen, [*messages[:1], *messages[2:]])


def one_twice(seen: ObservedChannel, messages: list[tuple[str, object]]) -> None:
    hand_over(seen, [*messages[:2], messages[1], *messages[2:]])


def order_changed(seen: ObservedChannel, messages: list[tuple[str, object]]) -> None:
    hand_over(seen, [messages[0], messages[2], messages[1], messages[3]])


def last_missing(seen: ObservedChannel, messages: list[tuple[str, object]]) -> None:
    hand_over(seen, messages[:-1])


def one_after_the_state_missing(seen: ObservedChannel, messages: list[tuple[str, object]]) -> None:
    seen.on_loaded(messages[0][0])
    hand_over(seen, messages[2:])


def one_before_the_state_again(seen: ObservedChannel, messages: list[tuple[str, object]]) -> None:
    hand_over(seen, messages[:2])
    seen.on_loaded(messages[1][0])
    hand_over(seen, messages[1:])


@pytest.mark.parametrize(
    ("breach", "kinds"),
    [
        (all_of, set()),
        (gap_in_between, set()),
        (state_loaded, set()),
        (one_left_out, {ViolationKind.LOST, ViolationKind.SILENT}),
        (one_twice, {ViolationKind.DUPLICATED}),
        (order_changed, {ViolationKind.REORDERED, ViolationKind.SILENT, ViolationKind.LOST}),
        (last_missing, {ViolationKind.LOST}),
        (one_after_the_state_missing, {ViolationKind.LOST, ViolationKind.SILENT}),
        (one_before_the_state_again, {ViolationKind.DUPLICATED}),
    ],
)
def test_each_breach_is_found(breach: Breach, kinds: set[ViolationKind]) -> None:
    history = History()
    seen = ObservedChannel("app", "c", history)
    seen.on_requested()
    if breach not in (state_loaded, one_after_the_state_missing):
        seen.on_position("0-u")
    breach(seen, [published(history, number) for number in range(1, 5)])
    found = check(history.events()).kinds
    assert bool(found) == bool(kinds)
    assert found <= kinds


def test_a_stream_without_a_position_is_an_error() -> None:
    seen = ObservedChannel("app", "c", History())
    with pytest.raises(AssertionError, match="a subscription has a position"):
        seen.on_position(None)
