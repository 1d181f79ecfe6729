"""Fan-out: many subscribers on few channels; backends publish on a fixed schedule."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import Any, ClassVar

from locust import FastHttpUser, events, task
from locust.env import Environment

from loadtests.load_shape import PlannedShape
from loadtests.options import PROFILES
from loadtests.push_publisher import PushPublisher
from loadtests.scenario_run import ScenarioRun, add_listener
from loadtests.websocket_user import WebSocketUser

CHANNELS_PER_SUBSCRIBER = 2

scenario_run = ScenarioRun("fanout", PROFILES["minutes"]["fanout"])


class Subscriber(WebSocketUser):
    """Subscribes to two channels from start to end, and only receives."""

    scenario_run = scenario_run

    def on_start(self) -> None:
        """Connect and subscribe, without join and leave pushes: n subscribers would cause n² of them."""
        super().on_start()
        self.connect()
        names = self.options.channel_names()
        first = self.index
        chosen = {names[(first + step) % len(names)] for step in range(CHANNELS_PER_SUBSCRIBER)}
        for channel in sorted(chosen):
            self.perform(partial(self.subscribe, channel, join_leave=False))

    @task
    def receive(self) -> None:
        """Stay connected."""
        self.reconnect()
        self.wait_until_closed(1.0)


class Backend(FastHttpUser):
    """A backend: publishes single messages, batches and broadcasts in turn, at its share of the rate.

    The schedule is fixed in advance: if a response takes long, the next requests follow faster, and how late
    they are is timed as `schedule_lag`. A publisher that waited would reduce the load just when the gateway
    is slow (coordinated omission).
    """

    fixed_count = 2
    scenario_run: ClassVar[ScenarioRun] = scenario_run

    def __init__(self, environment: Environment) -> None:
        self.options = self.scenario_run.options
        self.host = self.options.push
        super().__init__(environment)
        index, self.name = self.scenario_run.register_user("backend")
        self.random = Random(f"{self.options.seed} {index}")
        self.channels = self.options.channel_names()
        self.publisher = PushPublisher(
            self.name,
            self.client,
            self.scenario_run.metrics,
            key=self.options.key,
            padding=self.options.size,
        )
        self._next_due = time.perf_counter()

    def wait_time(self) -> float:
        """Return the seconds until the next request is due."""
        return max(0.0, self._next_due - time.perf_counter())

    @task(12)
    def publish(self) -> None:
        """Publish one message."""
        if self._schedule_next(after_messages=1):
            self.publisher.publish(self.random.choice(self.channels))

    @task(2)
    def batch(self) -> None:
        """Publish many messages in one request."""
        if self._schedule_next(after_messages=self.options.batch):
            self.publisher.batch(self.random.choices(self.channels, k=self.options.batch))

    @task(1)
    def broadcast(self) -> None:
        """Publish one message to all channels."""
        if self._schedule_next(after_messages=len(self.channels)):
            self.publisher.broadcast(self.channels)

    def _schedule_next(self, *, after_messages: int) -> bool:
        """Schedule the request after the current one; return whether to publish the current one."""
        if self.scenario_run.ending:
            self._next_due = time.perf_counter() + 0.1
            return False
        lag_us = int((time.perf_counter() - self._next_due) * 1e6)
        self.scenario_run.metrics.timings["schedule_lag"].record(lag_us)
        self._next_due += after_messages * self.options.backends / self.options.rate
        return True


class FanoutShape(PlannedShape):
    """The number of subscribers as planned by `--shape`, plus the backends."""

    def additional_users(self, parsed: Mapping[str, Any]) -> int:
        """Return the number of backends."""
        return int(parsed["backends"])


def _set_backend_count(environment: Environment, **_: object) -> None:
    assert environment.parsed_options is not None  # noqa: S101 (set wherever locust has a command line)
    Backend.fixed_count = environment.parsed_options.backends


add_listener(events.init, _set_backend_count)
