"""What a user hears, entered into the account."""

from typing import Any

import pytest

from loadtests import payload
from loadtests.account import DELIVERY, REPLAY, Account, Sums, summed
from loadtests.witness import Witness

CHANNEL = "c"
BY = f"{payload.MACHINE}-1.b"


class Scene:
    """A witness that follows one channel from its beginning, and the server that it hears."""

    def __init__(self, late_bound: int = 10**9) -> None:
        self.account = Account(late_bound=late_bound)
        self.witness = Witness("anna", self.account)
        self.subscribed(0)

    def message(self, number: int, offset: int | None = None) -> dict[str, Any]:
        offset = offset or number
        return {
            "type": "message",
            "channel": CHANNEL,
            "message": f"{offset}-u",
            "data": payload.write(BY, number),
        }

    def publish(self, count: int) -> None:
        ledger = self.account.ledger
        for _ in range(count):
            number = ledger.attempt(CHANNEL, BY)
            ledger.acknowledge(CHANNEL, BY, number, f"{number}-u")

    def hear(self, *numbers: int) -> None:
        for number in numbers:
            self.witness.pushed(self.message(number))

    def subscribed(self, position: int, **fields: Any) -> None:
        command = {"type": "subscribe", "channel": CHANNEL, "members": "members" in fields}
        self.witness.asked(command)
        answer = {"recovered": False, "messages": [], **fields}
        self.witness.replied(
            command, {"type": "subscribed", "channel": CHANNEL, "position": f"{position}-u", **answer}
        )

    def resumed(self, position: int, *messages: int, recovered: bool = True) -> None:
        replayed = [self.message(number) for number in messages]
        answer = {
            "type": "subscribed",
            "channel": CHANNEL,
            "position": f"{position}-u",
            "recovered": recovered,
            "messages": replayed,
        }
        self.witness.replied(
            {"type": "connect", "subs": self.witness.resume()},
            {"type": "connected", "subs": {CHANNEL: answer, "@anna": answer}},
        )

    def sums(self) -> Sums:
        return summed([self.account.statement()])


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_is_heard_live_is_delivered_and_timed(scene: Scene) -> None:
    scene.publish(3)
    scene.hear(1, 2, 3)
    sums = scene.sums()
    assert not sums.verdict.faults
    assert (sums.verdict.totals["delivered"], sums.timings[DELIVERY].count) == (3, 3)


def test_what_is_not_heard_is_lost(scene: Scene) -> None:
    scene.publish(3)
    scene.hear(1, 3)
    assert scene.sums().verdict.faults == {"lost": 1}


def test_what_took_longer_than_the_bound_is_late() -> None:
    strict = Scene(late_bound=-1)
    strict.publish(2)
    strict.hear(1, 2)
    assert strict.sums().verdict.totals["late"] == 2


def test_messages_of_another_machine_are_not_timed(scene: Scene) -> None:
    message = {**scene.message(1), "data": payload.write("elsewhere-1.b", 1)}
    scene.witness.pushed(message)
    sums = scene.sums()
    assert (sums.verdict.totals["delivered"], DELIVERY in sums.timings) == (1, False)


def test_a_resume_goes_on_where_it_was(scene: Scene) -> None:
    scene.publish(4)
    scene.hear(1)
    assert scene.witness.resume() == {CHANNEL: {"since": "1-u"}}
    scene.resumed(3, 2, 3)
    scene.hear(4)
    sums = scene.sums()
    assert not sums.verdict.faults
    assert (sums.timings[DELIVERY].count, sums.timings[REPLAY].count) == (2, 2)
    assert scene.witness.resume() == {CHANNEL: {"since": "4-u"}}


def test_a_recovery_with_a_hole_at_its_end_is_found_out(scene: Scene) -> None:
    scene.publish(3)
    scene.hear(1)
    scene.resumed(3, 2)
    assert scene.sums().verdict.faults == {"lost": 1}


def test_a_resume_that_could_not_be_recovered_is_counted_and_nothing_is_lost(scene: Scene) -> None:
    scene.publish(4)
    scene.hear(1)
    scene.resumed(3, recovered=False)
    scene.hear(4)
    sums = scene.sums()
    assert not sums.verdict.faults
    assert (sums.counts["unrecovered"], sums.verdict.totals["told"]) == (1, 2)


def test_a_gap_is_counted_and_nothing_is_lost(scene: Scene) -> None:
    scene.publish(4)
    scene.hear(1)
    scene.witness.pushed({"type": "gap", "channel": CHANNEL, "reason": "overflow", "position": "3-u"})
    scene.hear(4)
    sums = scene.sums()
    assert not sums.verdict.faults
    assert (sums.counts["gaps"], sums.verdict.totals["told"]) == (1, 2)


def test_a_message_after_the_end_of_a_subscription_is_an_error(scene: Scene) -> None:
    scene.witness.replied({"type": "unsubscribe"}, {"type": "unsubscribed", "channel": CHANNEL})
    scene.hear(1)
    assert scene.sums().counts["errors.unasked"] == 1


def test_a_message_that_no_load_test_wrote_is_an_error(scene: Scene) -> None:
    scene.witness.pushed({**scene.message(1), "data": {"text": "hello"}})
    assert scene.sums().counts["errors.unasked"] == 1


def test_who_leaves_is_owed_its_own_messages(scene: Scene) -> None:
    scene.publish(2)
    scene.hear(1)
    scene.witness.published(CHANNEL, 2)
    assert not scene.witness.heard_itself(CHANNEL)
    scene.witness.replied({"type": "unsubscribe"}, {"type": "unsubscribed", "channel": CHANNEL})
    assert scene.sums().verdict.faults == {"lost": 1}


def test_who_is_cut_off_is_owed_nothing(scene: Scene) -> None:
    scene.publish(2)
    scene.hear(1)
    scene.witness.published(CHANNEL, 2)
    scene.witness.leave(cleanly=False)
    assert not scene.sums().verdict.faults


def test_it_knows_who_else_is_here(scene: Scene) -> None:
    scene.subscribed(0, members=[{"connection": "x", "user": ""}, {"connection": "y", "user": ""}])
    for kind, connection in (("join", "z"), ("leave", "x")):
        scene.witness.pushed({"type": kind, "channel": CHANNEL, "member": {"connection": connection}})
    assert scene.witness.rosters[CHANNEL].connections == {"y", "z"}


def test_after_a_resume_it_does_not_know_who_else_is_here(scene: Scene) -> None:
    scene.subscribed(0, members=[{"connection": "x", "user": ""}])
    scene.resumed(0)
    assert not scene.witness.rosters[CHANNEL].known
    assert not scene.witness.rosters[CHANNEL].connections


def test_a_subscription_that_the_server_ends_is_an_error(scene: Scene) -> None:
    scene.witness.pushed({"type": "unsubscribed", "channel": CHANNEL, "code": "x", "reason": "revoked"})
    assert scene.sums().counts["errors.unsubscribed"] == 1
    assert not list(scene.witness.channels)


def refused(scene: Scene, code: str) -> None:
    refusal = {"type": "error", "code": code, "message": "no"}
    scene.witness.replied(
        {"type": "connect", "subs": scene.witness.resume()}, {"type": "connected", "subs": {CHANNEL: refusal}}
    )


def test_a_channel_that_cannot_be_restored_is_an_error_and_owes_nothing(scene: Scene) -> None:
    scene.publish(1)
    refused(scene, "permission_denied")
    sums = scene.sums()
    assert not sums.verdict.faults
    assert sums.counts["errors.permission_denied"] == 1


def test_a_channel_that_cannot_be_restored_yet_is_followed_still(scene: Scene) -> None:
    scene.publish(2)
    scene.hear(1)
    refused(scene, "unavailable")
    assert scene.witness.resume() == {CHANNEL: {"since": "1-u"}}
    scene.resumed(2, 2)
    assert not scene.sums().verdict.faults
