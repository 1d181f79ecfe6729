"""The end of tokens whose wall clock is stepped."""

import pytest

from gateway.access.expiry import MAX_SPENT_TOKENS, Expiry, SpentTokens
from gateway.clock import FakeClock


@pytest.mark.parametrize(
    ("wall", "elapsed", "left"),
    [
        (10.0, 10.0, 90.0),
        (10.0 + 3_600.0, 10.0, 0.0),
        (10.0 + 60.0, 10.0, 30.0),
        (10.0 - 3_600.0, 10.0, 90.0),
        (-3_500.0, 100.0, 0.0),
        (10.0, 70.0, 30.0),
    ],
)
def test_the_earlier_of_two_ends_counts(wall: float, elapsed: float, left: float) -> None:
    clocks = FakeClock(1_700_000_000.0), FakeClock(500.0)
    expiry = Expiry(1_700_000_100.0, wall=clocks[0], elapsed=clocks[1])
    for clock, passed in zip(clocks, (wall, elapsed), strict=True):
        clock.now += passed
    assert expiry.seconds_left == left


def test_a_spent_token_is_refused_until_the_wall_clock_refuses_it() -> None:
    spent = SpentTokens()
    spent.add("ann", "", 100.0, 100.0)
    assert len(spent) == 0, "no step: the wall clock refuses it itself"
    spent.add("ann", "", 100.0, 40.0)
    assert spent.include("ann", "", 100.0, 41.0)
    assert spent.include("ann", "", 99.0, 41.0)
    assert not spent.include("ann", "", 101.0, 41.0), "a newer token"
    assert not spent.include("ann", "a", 100.0, 41.0)
    assert not spent.include("bob", "", 100.0, 41.0)
    assert not spent.include("ann", "", None, 41.0)
    spent.add("ann", "", 80.0, 42.0)
    assert spent.include("ann", "", 100.0, 43.0), "the later of two counts"
    spent.include("ann", "", 200.0, 100.0)
    assert len(spent) == 0


def test_the_number_of_spent_tokens_is_bounded() -> None:
    spent = SpentTokens()
    for number in range(MAX_SPENT_TOKENS + 1):
        spent.add(str(number), "", 100.0, 0.0)
    assert len(spent) == MAX_SPENT_TOKENS
    assert not spent.include("0", "", 100.0, 0.0)
    assert spent.include("1", "", 100.0, 0.0)
