"""How many users there are at each moment of a run. Pure; `campaign.Shape` hands it to locust."""

from __future__ import annotations

from collections.abc import Callable

Plan = Callable[[float], float]
"""From the share of the duration that has passed (0…1) to the share of the users that there should be."""

STEPS = 10
"""Levels of a ramp: each change of the target costs locust a new dispatch."""


def steady(_: float) -> float:
    """Return everybody, all the time."""
    return 1.0


def ramp(passed: float) -> float:
    """Return ever more, in equal steps, until everybody is there for the last fifth."""
    return min(1.0, (int(passed / 0.8 * STEPS) + 1) / STEPS)


def spike(passed: float) -> float:
    """Return a fifth, everybody at once in the middle third, and a fifth again."""
    return 1.0 if 1 / 3 <= passed < 2 / 3 else 0.2


PLANS: dict[str, Plan] = {"steady": steady, "ramp": ramp, "spike": spike}


def target(plan: str, *, users: int, duration: float | None, elapsed: float) -> int | None:
    """Return how many of *users* there should be after *elapsed* of *duration* seconds; None at the end.

    Without a duration a run has no end, and every plan is steady.
    """
    if duration is None:
        return users
    if elapsed >= duration:
        return None
    return max(1, round(users * PLANS[plan](elapsed / duration)))
