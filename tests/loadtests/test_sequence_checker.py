import pytest

from loadtests.sequence_checker import Arrival, SequenceChecker

# The number before the first, the numbers as they arrive, how each relates, and what is missing in the end.
SEQUENCES = {
    "in order": (0, [1, 2, 3], "NNN", set()),
    "one missing": (0, [1, 3], "NN", {2}),
    "the first ones missing": (0, [3], "N", {1, 2}),
    "a missing number arrives later": (0, [1, 3, 2], "NNO", set()),
    "a duplicate": (0, [1, 1], "ND", set()),
    "a duplicate of the last but one": (0, [1, 2, 1], "NND", set()),
    "a number before the start": (5, [6, 5], "ND", set()),
    "unknown start: the first number counts": (None, [7, 8], "NN", set()),
    "unknown start: an earlier number than the first": (None, [7, 5], "NO", {6}),
    "unknown start: the earlier numbers in turn": (None, [7, 5, 6], "NOO", set()),
}
LETTERS = {Arrival.NEWEST: "N", Arrival.OUT_OF_ORDER: "O", Arrival.DUPLICATE: "D"}


@pytest.mark.parametrize(("start_after", "numbers", "arrivals", "missing"), SEQUENCES.values(), ids=SEQUENCES)
def test_every_number_is_classified(
    start_after: int | None, numbers: list[int], arrivals: str, missing: set[int]
) -> None:
    checker = SequenceChecker(start_after)
    assert "".join(LETTERS[checker.observe(number)] for number in numbers) == arrivals
    assert checker.missing == missing


def test_an_allowed_jump_is_allowed_once() -> None:
    checker = SequenceChecker(0)
    checker.observe(1)
    checker.allow_jump()
    checker.observe(5)
    checker.observe(7)
    assert checker.missing == {6}


def test_required_numbers_that_have_not_arrived_are_missing() -> None:
    checker = SequenceChecker(2)
    checker.require_through(4)
    checker.require_through(1)
    assert checker.missing == {3, 4}
