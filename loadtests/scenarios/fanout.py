"""Fan-out: many subscribers on few channels; backends push at a rate that waits for nobody."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import Any, ClassVar

from locust import FastHttpUser, events, task
from locust.env import Environment

from loadtests.backend import Backend
from loadtests.campaign import Campaign, Shape, on
from loadtests.options import PROFILES
from loadtests.users import WireUser

FOLLOWED = 2
"""Channels that a subscriber follows."""

campaign = Campaign("fanout", PROFILES["minutes"]["fanout"])


class Subscriber(WireUser):
    """Follows two channels from the beginning to the end, and does nothing but listen."""

    campaign = campaign

    def on_start(self) -> None:
        """Connect and subscribe, without hearing who else does: among n subscribers that is n² pushes."""
        super().on_start()
        self.enter()
        names = self.options.channel_names()
        for channel in sorted({names[(self.index + turn) % len(names)] for turn in range(FOLLOWED)}):
            self.act(partial(self.ask, "subscribe", channel=channel, join_leave=False))

    @task
    def listen(self) -> None:
        """Stay."""
        self.come_back()
        self.wait_until_gone(1.0)


class Pusher(FastHttpUser):
    """A backend: single messages, batches and broadcasts in turn, at its share of the rate.

    The schedule is fixed in advance: where an answer takes long, the next requests follow the faster, and how
    far they are behind is timed as `pacing`. A publisher that waited would spare the gateway when it is slow.
    """

    fixed_count = 2
    campaign: ClassVar[Campaign] = campaign

    def __init__(self, environment: Environment) -> None:
        self.options = self.campaign.options
        self.host = self.options.push
        super().__init__(environment)
        index, self.name = self.campaign.enroll("backend")
        self.random = Random(f"{self.options.seed} {index}")
        self.channels = self.options.channel_names()
        self.backend = Backend(
            self.name, self.client, self.campaign.account, key=self.options.key, size=self.options.size
        )
        self._due = time.perf_counter()

    def wait_time(self) -> float:
        """Return the seconds until the next request is due."""
        return max(0.0, self._due - time.perf_counter())

    @task(12)
    def publish(self) -> None:
        """Push one message."""
        if self._turn(1):
            self.backend.publish(self.random.choice(self.channels))

    @task(2)
    def batch(self) -> None:
        """Push many in one request."""
        if self._turn(self.options.batch):
            self.backend.batch(self.random.choices(self.channels, k=self.options.batch))

    @task(1)
    def broadcast(self) -> None:
        """Push one to all channels."""
        if self._turn(len(self.channels)):
            self.backend.broadcast(self.channels)

    def _turn(self, messages: int) -> bool:
        """Return whether to publish so many *messages* now, and put off the next request accordingly."""
        if self.campaign.hushed:
            self._due = time.perf_counter() + 0.1
            return False
        self.campaign.account.timings["pacing"].record(int((time.perf_counter() - self._due) * 1e6))
        self._due += messages * self.options.backends / self.options.rate
        return True


class FanoutShape(Shape):
    """Subscribers as planned, beside the backends."""

    def beside(self, parsed: Mapping[str, Any]) -> int:
        """Return the number of backends."""
        return int(parsed["backends"])


def _hire(environment: Environment, **_: object) -> None:
    assert environment.parsed_options is not None  # noqa: S101 (locust's command line always has some)
    Pusher.fixed_count = environment.parsed_options.backends


on(events.init, _hire)
