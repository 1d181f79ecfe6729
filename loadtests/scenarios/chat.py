"""Chat: people join channels, publish, query presence and history, change channels, disconnect and resume."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent
from locust import task

from loadtests import payload
from loadtests.connection import CommandRejected, Disconnected
from loadtests.load_shape import PlannedShape
from loadtests.message_ordinals import parse_message_id
from loadtests.options import PROFILES
from loadtests.scenario_run import ScenarioRun
from loadtests.websocket_user import WebSocketUser

PUBLISH, PUBLISH_AND_DISCONNECT, QUERY_PRESENCE, READ_HISTORY, CHANGE_CHANNEL, DISCONNECT = 20, 1, 2, 1, 1, 2
"""The relative frequency of each task."""

PUBLISH_SHARE = (PUBLISH + PUBLISH_AND_DISCONNECT) / (
    PUBLISH + PUBLISH_AND_DISCONNECT + QUERY_PRESENCE + READ_HISTORY + CHANGE_CHANNEL + DISCONNECT
)
"""The share of the tasks that publish."""

PUBLISH_ATTEMPTS = 3

MAX_DISCONNECTED_SECONDS = 1.0
"""How long a person at most waits before it reconnects."""

OWN_MESSAGES_SECONDS = 10.0
"""How long a person at most waits for its own messages before it unsubscribes."""

HISTORY_LIMIT = 20

scenario_run = ScenarioRun("chat", PROFILES["minutes"]["chat"])


class Person(WebSocketUser):
    """Subscribed to one channel at a time.

    With a token, a message that got no reply is published again under the same idempotency key.
    """

    scenario_run = scenario_run

    def on_start(self) -> None:
        """Connect, and join a channel."""
        super().on_start()
        self.channel = self.random.choice(self.options.channel_names())
        self.connect()
        self.perform(lambda: None)

    def perform(self, action: Callable[[], object]) -> None:
        """Call *action* with a subscription to the channel: one that was rejected is tried again first."""
        super().perform(lambda: self._call_subscribed(action))

    def wait_time(self) -> float:
        """Return a pause such that all people together publish at the rate of `--rate`."""
        people = max(1, self.environment.runner.target_user_count if self.environment.runner else 1)
        return self.random.expovariate(self.options.rate / people / PUBLISH_SHARE)

    @task(PUBLISH)
    def publish(self) -> None:
        """Publish a message, and wait for the reply."""
        self.perform(lambda: self._publish(disconnect=False))

    @task(PUBLISH_AND_DISCONNECT)
    def publish_and_disconnect(self) -> None:
        """Publish a message, and disconnect before the reply."""
        self.perform(lambda: self._publish(disconnect=True))

    @task(QUERY_PRESENCE)
    def query_presence(self) -> None:
        """Request the list of members."""
        self.perform(self._query_presence)

    @task(READ_HISTORY)
    def read_history(self) -> None:
        """Read the newest messages."""
        self.perform(self._read_history)

    @task(CHANGE_CHANNEL)
    def change_channel(self) -> None:
        """Unsubscribe, and join another channel."""
        self.perform(self._change_channel)

    @task(DISCONNECT)
    def disconnect(self) -> None:
        """Drop the connection, reconnect after a while, and resume."""
        self.perform(self._disconnect)

    def verify(self) -> None:
        """Compare the server's list of members, the list kept from pushes, and the connections that exist."""
        if self.channel not in self.recorder.channels:
            return
        presence = self.recorder.presence_lists[self.channel]
        had_list, from_pushes = presence.is_known, set(presence.connections)
        listed = self._query_presence()
        present = self.scenario_run.connections_in(self.channel)
        self._record_wrong("missing", present - listed)
        self._record_wrong("departed", (listed - present) & self.scenario_run.ended_connections)
        if had_list:
            self._record_wrong("stale", from_pushes ^ listed)
        self.metrics.counts["presence.checked"] += 1

    # ------------------------------------------------------------ private

    def _call_subscribed(self, action: Callable[[], object]) -> None:
        if self.channel not in self.recorder.channels:
            self._join()
        action()

    def _join(self) -> None:
        self.subscribe(self.channel, members=True, join_leave=True)

    def _publish(self, *, disconnect: bool) -> None:
        number = self.metrics.deliveries.record_attempt(self.channel, self.name)
        fields = {
            "channel": self.channel,
            "data": payload.build(self.name, number, padding=self.options.size),
            "key": f"{self.options.run}-{number}",
        }
        if disconnect and self.connection is not None:
            self.send("publish", **fields)
            self._disconnect()
            if self.token is None:
                return
        for _ in range(PUBLISH_ATTEMPTS):
            try:
                message_id = self.request("publish", **fields).get("message")
                ordinal = self.metrics.deliveries.record_acknowledgement(
                    self.channel, self.name, number, message_id
                )
                self.recorder.record_own_publish(self.channel, ordinal)
                return
            except CommandRejected as rejected:
                self.record_rejection(rejected)
            except Disconnected:
                self.reconnect()
            if self.token is None:
                # Idempotency keys of an anonymous connection end with it: publishing again would duplicate.
                return

    def _query_presence(self) -> set[str]:
        reply = self.request("presence", channel=self.channel, members=True)
        return {member["connection"] for member in reply["members"]}

    def _read_history(self) -> None:
        messages = self.request("history", channel=self.channel, limit=HISTORY_LIMIT, reverse=True)[
            "messages"
        ]
        offsets = [parse_message_id(message["message"])[0] for message in messages if "message" in message]
        if offsets != list(range(offsets[0], offsets[0] - len(offsets), -1) if offsets else ()):
            self.metrics.record_error("history", f"{self.name} read {offsets} in {self.channel}")

    def _change_channel(self) -> None:
        deadline = time.monotonic() + OWN_MESSAGES_SECONDS
        while not self.recorder.received_own_messages(self.channel) and time.monotonic() < deadline:
            gevent.sleep(0.01)
        self.request("unsubscribe", channel=self.channel)
        self.channel = self.random.choice(self.options.channel_names())
        self._join()

    def _disconnect(self) -> None:
        self.drop_connection()
        gevent.sleep(self.random.uniform(0, MAX_DISCONNECTED_SECONDS))
        self.reconnect()
        if self.channel in self.recorder.channels:
            self._query_presence()

    def _record_wrong(self, kind: str, connections: set[str]) -> None:
        for connection in sorted(connections):
            self.metrics.record_problem(
                f"presence.{kind}", f"{connection} in {self.channel}, as {self.name} sees it"
            )


class ChatShape(PlannedShape):
    """The number of people as planned by `--shape`."""
