"""What one user receives is recorded in its metrics."""

from typing import Any

import pytest

from loadtests import payload
from loadtests.metrics import DELIVERY, REPLAY, MergedMetrics, ProcessMetrics, merge_snapshots
from loadtests.user_recorder import UserRecorder
from protocol.client import ClientState
from protocol.commands import map_of
from protocol.server_messages import server_message_of

CHANNEL = "c"
CONNECTED = {"type": "connected", "id": 1, "connection": "x", "user": "anna", "node": "n", "heartbeat": 25}
PUBLISHER = f"{payload.MACHINE_ID}-1.b"


class SubscribedUser:
    """A user subscribed to one channel from its first message: its recorder, its client, what it receives."""

    def __init__(self, late_after_us: int = 10**9) -> None:
        self.metrics = ProcessMetrics(late_after_us=late_after_us)
        self.recorder = UserRecorder("anna", self.metrics)
        self.client = ClientState(random=lambda: 0.0)
        self.client.connect_command()
        self.client.on_message(server_message_of(CONNECTED))
        self.client.add(CHANNEL)
        self.subscribed(0)

    def message(self, number: int, offset: int | None = None) -> dict[str, Any]:
        offset = offset or number
        return {
            "type": "message",
            "channel": CHANNEL,
            "message": f"{offset}-u",
            "data": payload.build(PUBLISHER, number),
        }

    def publish(self, count: int) -> None:
        deliveries = self.metrics.deliveries
        for _ in range(count):
            number = deliveries.record_attempt(CHANNEL, PUBLISHER)
            deliveries.record_acknowledgement(CHANNEL, PUBLISHER, number, f"{number}-u")

    def receive(self, *numbers: int) -> None:
        for number in numbers:
            message = self.message(number)
            self.recorder.on_push(message)
            self.client.advance(CHANNEL, message["message"])

    def subscribed(self, position: int, **fields: Any) -> None:
        command = {"type": "subscribe", "channel": CHANNEL, "members": "members" in fields}
        self.recorder.on_command(command)
        reply = {
            "type": "subscribed",
            "channel": CHANNEL,
            "position": f"{position}-u",
            "recovered": False,
            "messages": [],
            **fields,
        }
        self.recorder.on_reply(command, reply)
        self.client.on_message(server_message_of(reply))

    def resumed(self, position: int, *messages: int, recovered: bool = True) -> None:
        replayed = [self.message(number) for number in messages]
        answer = {
            "type": "subscribed",
            "channel": CHANNEL,
            "position": f"{position}-u",
            "recovered": recovered,
            "messages": replayed,
        }
        self.reconnect({CHANNEL: answer, "@anna": {**answer, "channel": "@anna", "messages": []}})

    def reject_restore(self, code: str) -> None:
        self.reconnect({CHANNEL: {"type": "error", "code": code, "message": "no"}})

    def reconnect(self, answers: dict[str, Any]) -> None:
        self.client.on_connection_lost()
        command = map_of(self.client.connect_command())
        self.recorder.on_command(command)
        reply = {**CONNECTED, "subs": answers}
        self.recorder.on_reply(command, reply)
        self.client.on_message(server_message_of(reply))

    def merged(self) -> MergedMetrics:
        return merge_snapshots([self.metrics.snapshot()])


@pytest.fixture
def user() -> SubscribedUser:
    return SubscribedUser()


def test_a_live_message_is_counted_and_timed(user: SubscribedUser) -> None:
    user.publish(3)
    user.receive(1, 2, 3)
    merged = user.merged()
    assert not merged.deliveries.faults
    assert (merged.deliveries.totals["delivered"], merged.timings[DELIVERY].count) == (3, 3)


def test_a_message_that_is_not_received_is_lost(user: SubscribedUser) -> None:
    user.publish(3)
    user.receive(1, 3)
    assert user.merged().deliveries.faults == {"lost": 1}


def test_a_message_that_took_longer_than_the_bound_is_late() -> None:
    strict = SubscribedUser(late_after_us=-1)
    strict.publish(2)
    strict.receive(1, 2)
    assert strict.merged().deliveries.totals["late"] == 2


def test_a_message_of_another_machine_is_not_timed(user: SubscribedUser) -> None:
    message = {**user.message(1), "data": payload.build("elsewhere-1.b", 1)}
    user.recorder.on_push(message)
    merged = user.merged()
    assert (merged.deliveries.totals["delivered"], DELIVERY in merged.timings) == (1, False)


def test_a_resume_continues_from_the_last_position(user: SubscribedUser) -> None:
    user.publish(4)
    user.receive(1)
    assert user.client.channels[CHANNEL].position == "1-u"
    user.resumed(3, 2, 3)
    user.receive(4)
    merged = user.merged()
    assert not merged.deliveries.faults
    assert (merged.timings[DELIVERY].count, merged.timings[REPLAY].count) == (2, 2)
    assert user.client.channels[CHANNEL].position == "4-u"


def test_a_recovery_that_omits_its_last_message_has_lost_it(user: SubscribedUser) -> None:
    user.publish(3)
    user.receive(1)
    user.resumed(3, 2)
    assert user.merged().deliveries.faults == {"lost": 1}


def test_a_resume_that_is_not_recovered_is_counted_and_nothing_is_lost(user: SubscribedUser) -> None:
    user.publish(4)
    user.receive(1)
    user.resumed(3, recovered=False)
    user.receive(4)
    merged = user.merged()
    assert not merged.deliveries.faults
    assert (merged.counts["unrecovered"], merged.deliveries.totals["announced"]) == (1, 2)


def test_a_gap_is_counted_and_nothing_is_lost(user: SubscribedUser) -> None:
    user.publish(4)
    user.receive(1)
    user.recorder.on_push({"type": "gap", "channel": CHANNEL, "reason": "overflow", "position": "3-u"})
    user.receive(4)
    merged = user.merged()
    assert not merged.deliveries.faults
    assert (merged.counts["gaps"], merged.deliveries.totals["announced"]) == (1, 2)


def test_a_message_after_the_end_of_a_subscription_is_an_error(user: SubscribedUser) -> None:
    user.recorder.on_reply({"type": "unsubscribe"}, {"type": "unsubscribed", "channel": CHANNEL})
    user.receive(1)
    assert user.merged().counts["errors.unexpected_message"] == 1


def test_a_message_that_no_load_test_published_is_an_error(user: SubscribedUser) -> None:
    user.recorder.on_push({**user.message(1), "data": {"text": "hello"}})
    assert user.merged().counts["errors.unexpected_message"] == 1


def test_a_user_that_unsubscribes_must_have_received_its_own_messages(user: SubscribedUser) -> None:
    user.publish(2)
    user.receive(1)
    user.recorder.record_own_publish(CHANNEL, 2)
    assert not user.recorder.received_own_messages(CHANNEL)
    user.recorder.on_reply({"type": "unsubscribe"}, {"type": "unsubscribed", "channel": CHANNEL})
    assert user.merged().deliveries.faults == {"lost": 1}


def test_a_user_that_is_disconnected_may_miss_its_own_messages(user: SubscribedUser) -> None:
    user.publish(2)
    user.receive(1)
    user.recorder.record_own_publish(CHANNEL, 2)
    user.recorder.end_all(require_own=False)
    assert not user.merged().deliveries.faults


def test_it_keeps_the_list_of_connections_present(user: SubscribedUser) -> None:
    user.subscribed(0, members=[{"connection": "x", "user": ""}, {"connection": "y", "user": ""}])
    for kind, connection in (("join", "z"), ("leave", "x")):
        user.recorder.on_push({"type": kind, "channel": CHANNEL, "member": {"connection": connection}})
    assert user.recorder.presence_lists[CHANNEL].connections == {"y", "z"}


def test_after_a_resume_the_list_of_connections_is_unknown(user: SubscribedUser) -> None:
    user.subscribed(0, members=[{"connection": "x", "user": ""}])
    user.resumed(0)
    assert not user.recorder.presence_lists[CHANNEL].is_known
    assert not user.recorder.presence_lists[CHANNEL].connections


def test_a_subscription_that_the_server_ends_is_an_error(user: SubscribedUser) -> None:
    user.recorder.on_push({"type": "unsubscribed", "channel": CHANNEL, "code": "x", "reason": "revoked"})
    assert user.merged().counts["errors.unsubscribed"] == 1
    assert not list(user.recorder.channels)


def test_a_channel_that_cannot_be_restored_is_an_error_and_nothing_is_lost(user: SubscribedUser) -> None:
    user.publish(1)
    user.reject_restore("permission_denied")
    merged = user.merged()
    assert not merged.deliveries.faults
    assert merged.counts["errors.permission_denied"] == 1


def test_a_channel_that_cannot_be_restored_yet_stays_subscribed(user: SubscribedUser) -> None:
    user.publish(2)
    user.receive(1)
    user.reject_restore("unavailable")
    assert user.client.channels[CHANNEL].position == "1-u"
    user.resumed(2, 2)
    assert not user.merged().deliveries.faults


def test_a_channel_that_cannot_be_restored_yet_is_resumed_by_a_later_subscribe(user: SubscribedUser) -> None:
    user.publish(2)
    user.receive(1)
    user.reject_restore("unavailable")
    command = map_of(user.client.subscribe_command(CHANNEL))
    assert command["since"] == "1-u"
    user.recorder.on_command(command)
    reply = {"type": "subscribed", "channel": CHANNEL, "position": "2-u", "recovered": True}
    user.recorder.on_reply(command, {**reply, "messages": [user.message(2)]})
    merged = user.merged()
    assert not merged.deliveries.faults
    assert (merged.counts["errors.unavailable"], merged.counts["recovered"]) == (1, 1)


def test_the_channel_that_the_server_adds_is_not_recorded(user: SubscribedUser) -> None:
    user.resumed(0)
    user.resumed(0)
    assert "@anna" in user.client.channels
    command = {"type": "subscribe", "channel": "@anna"}
    user.recorder.on_reply(command, {"type": "subscribed", "channel": "@anna", "recovered": False})
    assert list(user.recorder.channels) == [CHANNEL]


def test_a_channel_that_connected_does_not_mention_is_an_error_and_ends(user: SubscribedUser) -> None:
    user.reconnect({})
    assert user.metrics.counts["errors.not_subscribed"] == 1
    assert CHANNEL not in user.recorder.channels
