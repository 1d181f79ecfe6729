"""The number of users over time, as locust asks for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from locust import LoadTestShape

from loadtests.user_count_plans import planned_user_count


class PlannedShape(LoadTestShape):
    """The plan that `--shape` names, with `-u` users, for the duration `-t`."""

    abstract = True
    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there should be now, and how many may start per second; None at the end."""
        assert self.runner is not None  # noqa: S101 (locust sets it before it calls)
        parsed, elapsed = vars(self.runner.environment.parsed_options), time.perf_counter() - self.start_time
        users = planned_user_count(
            parsed["shape"], users=parsed["num_users"] or 1, duration=parsed["run_time"], elapsed=elapsed
        )
        return None if users is None else (users + self.additional_users(parsed), parsed["spawn_rate"] or 1)

    def additional_users(self, parsed: Mapping[str, Any]) -> int:
        """Return the number of users that `-u` does not count, from the *parsed* options."""
        return 0
