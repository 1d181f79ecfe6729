"""How many users there are at each moment of a run. Pure; `load_shape.PlannedShape` passes it to locust."""

from __future__ import annotations

from collections.abc import Callable

Plan = Callable[[float], float]
"""From the share of the duration that has passed (0…1) to the share of the users that there should be."""

RAMP_STEPS = 10
"""Levels of a ramp: each change of the user count costs locust a new dispatch."""


def steady(_: float) -> float:
    """Return all users, all the time."""
    return 1.0


def ramp(elapsed_share: float) -> float:
    """Return a share that grows in equal steps; all users are there for the last fifth."""
    return min(1.0, (int(elapsed_share / 0.8 * RAMP_STEPS) + 1) / RAMP_STEPS)


def spike(elapsed_share: float) -> float:
    """Return a fifth, all users at once in the middle third, then a fifth again."""
    return 1.0 if 1 / 3 <= elapsed_share < 2 / 3 else 0.2


PLANS: dict[str, Plan] = {"steady": steady, "ramp": ramp, "spike": spike}


def planned_user_count(plan: str, *, users: int, duration: float | None, elapsed: float) -> int | None:
    """Return how many of *users* there should be after *elapsed* of *duration* seconds; None at the end.

    Without a duration a run has no end, and every plan is steady.
    """
    if duration is None:
        return users
    if elapsed >= duration:
        return None
    return max(1, round(users * PLANS[plan](elapsed / duration)))
