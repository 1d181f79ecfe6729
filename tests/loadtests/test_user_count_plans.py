import pytest

from loadtests.user_count_plans import PLANS, planned_user_count

USERS, DURATION = 100, 90.0

# Pairs of the share of the duration that has passed, and the user count then.
EXPECTED = {
    "steady": [(0.0, 100), (0.5, 100), (0.99, 100)],
    "ramp": [(0.0, 10), (0.4, 60), (0.79, 100), (0.99, 100)],
    "spike": [(0.0, 20), (0.3, 20), (0.34, 100), (0.66, 100), (0.67, 20), (0.99, 20)],
}


@pytest.mark.parametrize("plan", EXPECTED)
def test_the_user_count_follows_the_plan(plan: str) -> None:
    counts = [
        planned_user_count(plan, users=USERS, duration=DURATION, elapsed=share * DURATION)
        for share, _ in EXPECTED[plan]
    ]
    assert counts == [users for _, users in EXPECTED[plan]]


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_ends_with_the_duration_and_has_at_least_one_user(plan: str) -> None:
    assert planned_user_count(plan, users=USERS, duration=DURATION, elapsed=DURATION) is None
    assert planned_user_count(plan, users=1, duration=DURATION, elapsed=0.0) == 1


@pytest.mark.parametrize("plan", PLANS)
def test_without_a_duration_every_plan_is_steady_and_has_no_end(plan: str) -> None:
    assert planned_user_count(plan, users=USERS, duration=None, elapsed=1e9) == USERS


def test_a_ramp_never_goes_down() -> None:
    counts = [
        planned_user_count("ramp", users=USERS, duration=DURATION, elapsed=second) for second in range(90)
    ]
    assert counts == sorted(counts, key=lambda users: users or 0)
