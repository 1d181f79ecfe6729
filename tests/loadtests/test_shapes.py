import pytest

from loadtests.shapes import PLANS, target

USERS, DURATION = 100, 90.0

# The share of the duration that has passed, and how many are there.
COURSES = {
    "steady": [(0.0, 100), (0.5, 100), (0.99, 100)],
    "ramp": [(0.0, 10), (0.4, 60), (0.79, 100), (0.99, 100)],
    "spike": [(0.0, 20), (0.3, 20), (0.34, 100), (0.66, 100), (0.67, 20), (0.99, 20)],
}


@pytest.mark.parametrize("plan", COURSES)
def test_how_many_users_there_are(plan: str) -> None:
    told = [target(plan, users=USERS, duration=DURATION, elapsed=at * DURATION) for at, _ in COURSES[plan]]
    assert told == [users for _, users in COURSES[plan]]


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_ends_with_the_duration_and_never_leaves_nobody(plan: str) -> None:
    assert target(plan, users=USERS, duration=DURATION, elapsed=DURATION) is None
    assert target(plan, users=1, duration=DURATION, elapsed=0.0) == 1


@pytest.mark.parametrize("plan", PLANS)
def test_without_a_duration_it_is_steady_and_has_no_end(plan: str) -> None:
    assert target(plan, users=USERS, duration=None, elapsed=1e9) == USERS


def test_a_ramp_never_goes_down() -> None:
    course = [target("ramp", users=USERS, duration=DURATION, elapsed=second) for second in range(90)]
    assert course == sorted(course, key=lambda users: users or 0)
