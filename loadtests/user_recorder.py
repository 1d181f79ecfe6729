"""Records what one user's connections receive in the metrics, across reconnects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from loadtests import payload
from loadtests.metrics import DELIVERY, REPLAY, ProcessMetrics
from loadtests.presence_list import PresenceList
from loadtests.subscription_record import SubscriptionRecord
from protocol.errors import TRANSIENT_ERRORS


class UserRecorder:
    """The subscriptions of one user, and who else is present, as its connections show them.

    Its methods are called in the order of the frames: what follows a `subscribed` is recorded after it. It
    reads the wire by itself, independently of the client's own state (`protocol.client`).
    """

    def __init__(self, name: str, metrics: ProcessMetrics) -> None:
        self.name = name
        self.metrics = metrics
        self.presence_lists: dict[str, PresenceList] = {}
        self._subscriptions: dict[str, SubscriptionRecord] = {}
        self.listed_as: dict[str, str] = {}
        """By channel, the connection id under which members list this user, if it is an earlier one."""
        self._server_channels: set[str] = set()
        """Channels that the server adds to `connected`: the user's own, to which no load test publishes."""
        self._own_published: dict[str, int] = {}
        """By channel the newest ordinal that this user published; it receives its own messages, too."""

    @property
    def channels(self) -> Iterable[str]:
        """The channels that the user is subscribed to."""
        return self._subscriptions.keys()

    def record_own_publish(self, channel: str, ordinal: int | None) -> None:
        """Record that this user published a message itself, under *ordinal*."""
        self._own_published[channel] = max(ordinal or 0, self._own_published.get(channel, 0))

    def received_own_messages(self, channel: str) -> bool:
        """Whether everything that this user published was delivered to it, or can no longer be."""
        subscription = self._subscriptions.get(channel)
        return subscription is None or subscription.has_reached(self._own_published.get(channel, 0))

    def end_all(self, *, require_own: bool) -> None:
        """End all subscriptions. *require_own*: the user's own messages must have been delivered by now."""
        for channel in list(self._subscriptions):
            self._end_subscription(channel, require_own=require_own)

    # ------------------------------------------------------------ called by the connection

    def on_command(self, command: Mapping[str, Any]) -> None:
        """Record a command that is about to be sent."""
        if command["type"] in {"subscribe", "presence"} and command.get("members"):
            self.presence_lists.setdefault(command["channel"], PresenceList()).start_request()

    def on_reply(self, command: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Record the reply to *command*."""
        match reply["type"]:
            case "connected":
                requested = command.get("subs", {})
                self._server_channels |= reply.get("subs", {}).keys() - requested.keys()
                for channel in requested.keys() - self._server_channels:
                    self._on_restored(channel, requested[channel], reply.get("subs", {}).get(channel))
            case "subscribed":
                self._on_subscribed(reply, since=command.get("since"))
            case "unsubscribed":
                self._end_subscription(reply["channel"], require_own=True)
            case "presence" if command.get("members"):
                self.presence_lists[reply["channel"]].apply_list(_connection_ids(reply))

    def on_push(self, push: Mapping[str, Any]) -> None:
        """Record a push."""
        match push["type"]:
            case "message":
                self._on_message(push, DELIVERY)
            case "join" | "leave" if presence := self.presence_lists.get(push["channel"]):
                presence.apply_change(push["member"]["connection"], present=push["type"] == "join")
            case "gap":
                self._on_gap(push)
            case "ping":
                pass  # the client answers it
            case "subscribed":
                self._on_subscribed(push, since=None)
            case "unsubscribed":
                self.metrics.record_error(
                    "unsubscribed", f"{self.name} from {push['channel']} by the server: {push.get('reason')}"
                )
                self._end_subscription(push["channel"], require_own=False)
            case "error":
                self.metrics.record_error(push["code"], f"{self.name}, without a command: {push['message']}")
            case kind:
                self.metrics.counts[f"pushes.{kind}"] += 1

    # ------------------------------------------------------------ private

    def _on_restored(
        self, channel: str, options: Mapping[str, Any], answer: Mapping[str, Any] | None
    ) -> None:
        if answer is None:
            self.metrics.record_error("not_subscribed", f"{self.name}: connected does not mention {channel}")
            self._end_subscription(channel, require_own=False)
            return
        # Joins and leaves of the time without a connection are unknown: the list must be requested again.
        self.presence_lists[channel] = PresenceList()
        if answer["type"] == "subscribed":
            self._on_subscribed(answer, since=options.get("since"))
            return
        self.metrics.record_error(answer["code"], f"{self.name} restores {channel}: {answer['message']}")
        if answer["code"] not in TRANSIENT_ERRORS:
            self._end_subscription(channel, require_own=False)

    def _on_subscribed(self, answer: Mapping[str, Any], *, since: str | None) -> None:
        channel, position = answer["channel"], answer.get("position")
        if channel in self._server_channels:
            return
        self.listed_as.pop(channel, None)
        if "listed_as" in answer:
            self.listed_as[channel] = answer["listed_as"]
        subscription = self._subscriptions.get(channel)
        if subscription is None:
            subscription = self.metrics.deliveries.start_subscription(self.name, channel, position)
            self._subscriptions[channel] = subscription
            self._own_published.pop(channel, None)
        elif answer["recovered"]:
            self.metrics.counts["recovered"] += 1
            for message in answer["messages"]:
                self._on_message(message, REPLAY)
            self.metrics.deliveries.require_through(subscription, position)
        else:
            if since is not None:
                self.metrics.record_problem(
                    "unrecovered", f"{self.name} on {channel} since {since}, now at {position}"
                )
            self.metrics.deliveries.record_announced_gap(subscription, position)
        if "members" in answer:
            self.presence_lists[channel].apply_list(_connection_ids(answer))

    def _on_message(self, message: Mapping[str, Any], timing: str) -> None:
        channel, message_id = message["channel"], message.get("message")
        subscription, received = self._subscriptions.get(channel), payload.parse(message["data"])
        if subscription is None or received is None:
            problem = "without a subscription" if subscription is None else "that no load test published"
            self.metrics.record_error(
                "unexpected_message", f"{self.name} received {message_id} on {channel}, a message {problem}"
            )
            return
        self.metrics.deliveries.record_delivery(subscription, received.publisher, received.number, message_id)
        if received.age_us is None:
            return
        self.metrics.timings[timing].record(received.age_us)
        if timing == DELIVERY and received.age_us > self.metrics.late_after_us:
            subscription.record_late(received.publisher, received.number, subscription.last)

    def _on_gap(self, gap: Mapping[str, Any]) -> None:
        channel, position = gap["channel"], gap.get("position")
        self.metrics.record_problem(
            "gaps", f"{self.name} on {channel}: {gap['reason']}, continues after {position}"
        )
        if subscription := self._subscriptions.get(channel):
            self.metrics.deliveries.record_announced_gap(subscription, position)

    def _end_subscription(self, channel: str, *, require_own: bool) -> None:
        self.presence_lists.pop(channel, None)
        own = self._own_published.pop(channel, None)
        if subscription := self._subscriptions.pop(channel, None):
            self.metrics.deliveries.end_subscription(subscription, own if require_own else None)

    def __repr__(self) -> str:
        return f"<UserRecorder {self.name} on {', '.join(self.channels)}>"


def _connection_ids(answer: Mapping[str, Any]) -> list[str]:
    return [member["connection"] for member in answer["members"]]
