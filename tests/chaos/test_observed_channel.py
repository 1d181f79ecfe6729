"""What the checker says of an application on a client library, if the library breaks a promise."""

from collections.abc import Callable

import pytest

from tests.chaos.checker import check
from tests.chaos.history import History, PublishAttempted, PublishResolved, PublishResult
from tests.chaos.library.application import LibraryPublish
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
    seen.on_loaded("0-u")
    hand_over(seen, messages[:2])
    seen.on_gap("trimmed", messages[1][0])
    seen.on_loaded(messages[1][0])
    hand_over(seen, messages[1:])


LOAD_STATE = (state_loaded, one_after_the_state_missing, one_before_the_state_again)


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
    loads_state = breach in LOAD_STATE
    seen = ObservedChannel("app", "c", history, loads_state=loads_state)
    seen.on_requested()
    if not loads_state:
        seen.on_position("0-u")
    breach(seen, [published(history, number) for number in range(1, 5)])
    found = check(history.events()).kinds
    assert bool(found) == bool(kinds)
    assert found <= kinds


def test_a_stream_without_a_position_is_an_error() -> None:
    seen = ObservedChannel("app", "c", History())
    with pytest.raises(AssertionError, match="a subscription has a position"):
        seen.on_position(None)


def test_a_message_before_the_state_is_an_error() -> None:
    seen = ObservedChannel("app", "c", History(), loads_state=True)
    seen.on_loaded("1-u")
    seen.on_message("2-u", publish_data("m2", 5), "1-u")
    seen.on_gap("trimmed", "4-u")
    with pytest.raises(AssertionError, match="before the state"):
        seen.on_message("5-u", publish_data("m5", 5), "4-u")


def test_an_application_has_reached_nothing_while_it_loads_its_state() -> None:
    seen = ObservedChannel("app", "c", History(), loads_state=True)
    assert not seen.has_reached("0-u")
    seen.on_loaded("5-u")
    assert seen.has_reached("5-u")
    seen.on_gap("reset", "2-v")
    assert not seen.has_reached("2-v")
    seen.on_loaded("2-v")
    assert seen.has_reached("2-v")


def test_a_position_of_another_history_is_not_where_it_should_be() -> None:
    seen = ObservedChannel("app", "c", History())
    seen.on_position("5-u")
    assert seen.has_reached("2-v")
    assert not seen.is_at("2-v")
    seen.on_gap("reset", "2-v")
    assert seen.is_at("2-v")


# ---------------------------------------------------------------- publishes through a library


@pytest.mark.parametrize("code", ["timeout", "queue_full"])
async def test_a_publish_that_did_not_happen_has_failed(code: str) -> None:
    history = History()
    LibraryPublish(history, "c", "m1").on_failed(code)
    assert history.events()[-1] == PublishResolved("m1", PublishResult.FAILED)


@pytest.mark.parametrize("code", ["uncertain", "unavailable", "connection_lost"])
async def test_a_library_that_gives_up_too_early_is_an_error(code: str) -> None:
    publish = LibraryPublish(History(), "c", "m1")
    with pytest.raises(AssertionError, match=r"m1 (was given up|is uncertain)"):
        publish.on_failed(code)
