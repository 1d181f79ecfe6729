"""One subscriber's view of one channel."""

import pytest

from loadtests.numbering import EPOCH
from loadtests.track import SAMPLES, Sequence, Step, Track

# Numbers in the order in which they come, how each stands, and what is missing in the end.
SEQUENCES = {
    "in order": (0, [1, 2, 3], "FFF", set()),
    "a hole": (0, [1, 3], "FF", {2}),
    "a hole at the beginning": (0, [3], "F", {1, 2}),
    "a hole that is filled": (0, [1, 3, 2], "FFB", set()),
    "twice": (0, [1, 1], "FA", set()),
    "the last but one again": (0, [1, 2, 1], "FFA", set()),
    "what was before the beginning": (5, [6, 5], "FA", set()),
    "it begins with whichever comes first": (None, [7, 8], "FF", set()),
    "an earlier one than the first": (None, [7, 5], "FB", {6}),
    "the earlier ones in turn": (None, [7, 5, 6], "FBB", set()),
}
LETTERS = {Step.FORWARD: "F", Step.BACK: "B", Step.AGAIN: "A"}


@pytest.mark.parametrize(("before", "numbers", "steps", "missing"), SEQUENCES.values(), ids=SEQUENCES)
def test_how_numbers_stand(before: int | None, numbers: list[int], steps: str, missing: set[int]) -> None:
    sequence = Sequence(before)
    assert "".join(LETTERS[sequence.take(number)] for number in numbers) == steps
    assert sequence.missing == missing


def test_a_loosened_sequence_forgives_one_jump() -> None:
    sequence = Sequence(0)
    sequence.take(1)
    sequence.loosen()
    sequence.take(5)
    sequence.take(7)
    assert sequence.missing == {6}


def test_what_is_expected_and_does_not_come_is_missing() -> None:
    sequence = Sequence(2)
    sequence.expect(4)
    sequence.expect(1)
    assert sequence.missing == {3, 4}


def track(position: int | None = 0) -> Track:
    return Track("anna", "c", position)


def test_what_the_server_tells_of_is_not_missing_but_counted() -> None:
    told = track()
    told.arrived("b", 1, 1)
    told.was_told(5)
    told.arrived("b", 6, 6)
    assert told.spotless
    assert told.counts() == {
        "delivered": 2,
        "duplicated": 0,
        "reordered": 0,
        "misnumbered": 0,
        "late": 0,
        "told": 4,
    }


def test_what_was_missing_before_is_no_part_of_what_the_server_tells_of() -> None:
    told = track()
    told.arrived("b", 2, 2)
    told.was_told(5)
    assert told.statement()["missing"] == [1]


def test_a_history_that_begins_anew_and_says_so_is_followed_from_there() -> None:
    told = track()
    for number in (1, 2, 3):
        told.arrived("b", number, number)
    told.was_told(EPOCH + 2)
    told.arrived("b", 3, EPOCH + 3)
    assert told.spotless
    assert (told.misnumbered, told.duplicated, told.told) == (0, 0, 2)


def test_a_history_that_begins_anew_without_a_word_is_found_out() -> None:
    silent = track()
    silent.arrived("b", 1, 1)
    silent.arrived("b", 2, EPOCH + 1)
    silent.arrived("b", 3, EPOCH + 2)
    assert silent.misnumbered == 1


def test_an_older_id_for_a_newer_message_is_found_out() -> None:
    silent = track()
    for number in (1, 2, 3):
        silent.arrived("b", number, number)
    silent.arrived("b", 4, 1)
    assert silent.misnumbered == 1


def test_a_message_that_was_stored_twice_is_a_duplicate() -> None:
    twice = track()
    twice.arrived("b", 1, 1)
    twice.arrived("b", 1, 2)
    twice.arrived("b", 2, 3)
    assert (twice.duplicated, twice.statement()["missing"]) == (1, [])


def test_a_recovery_that_leaves_something_out_is_found_out() -> None:
    recovered = track()
    recovered.arrived("b", 1, 1)
    recovered.reached(3)
    assert recovered.statement()["missing"] == [2, 3]


def test_who_leaves_is_owed_what_it_knew_to_be_on_its_way() -> None:
    left = track()
    left.arrived("b", 1, 1)
    left.close(through=2)
    assert left.statement()["missing"] == [2]
    assert not left.behind(10)


def test_it_knows_how_much_is_still_to_come() -> None:
    waiting = track(5)
    assert waiting.behind(7) == 2
    waiting.arrived("b", 1, 6)
    assert waiting.behind(7) == 1
    assert not waiting.behind(6)
    assert waiting.behind(EPOCH + 6) == 1


def test_only_the_first_faults_of_a_kind_are_named() -> None:
    late = track()
    for number in range(1, 10):
        late.was_late("b", number, number)
    late.arrived("b", 1, 1)
    late.arrived("b", 1, 1)
    assert [kind for kind, _ in late.samples] == ["late"] * SAMPLES + ["duplicated"]
    assert late.late == 9
