"""The delivery record of channels without history, and of histories that the server loses."""

from collections.abc import Callable

import pytest

from loadtests.delivery_check import COLUMNS, check_deliveries
from loadtests.delivery_record import DeliveryRecord
from tests.loadtests.message_ids import id_of

CHANNEL = "c"


def publish(record: DeliveryRecord, message_id: str | None, channel: str = CHANNEL) -> None:
    """Record a message of publisher b that is sent and acknowledged."""
    record.record_acknowledgement(channel, "b", record.record_attempt(channel, "b"), message_id)


def test_a_subscription_that_ended_without_faults_is_counted_and_discarded() -> None:
    record = DeliveryRecord()
    for number in (1, 2, 3):
        subscription = record.start_subscription("anna", CHANNEL, id_of(number - 1))
        publish(record, id_of(number))
        record.record_delivery(subscription, "b", number, id_of(number))
        record.end_subscription(subscription)
    assert record.snapshot()["subscriptions"] == []
    assert check_deliveries([record.snapshot()]).totals["subscribers"] == 3


def test_it_counts_what_is_outstanding() -> None:
    record = DeliveryRecord()
    subscription = record.start_subscription("anna", CHANNEL, id_of(0))
    publish(record, id_of(1))
    assert record.outstanding() == 1
    record.record_delivery(subscription, "b", 1, id_of(1))
    assert record.outstanding() == 0


# ---------------------------------------------------------------- channels without history: no message ids

Alter = Callable[[list[int]], list[int]]
WITHOUT_IDS: dict[str, tuple[Alter, dict[str, int]]] = {
    "nothing": (lambda numbers: numbers, {}),
    "the first lost": (lambda numbers: numbers[1:], {"lost": 1}),
    "one lost": (lambda numbers: numbers[:2] + numbers[3:], {"lost": 1}),
    "the last lost": (lambda numbers: numbers[:-1], {"lost": 1}),
    "all lost": (lambda _: [], {"lost": 5}),
    "one twice": (lambda numbers: [*numbers, numbers[0]], {"duplicated": 1}),
    "two swapped": (lambda numbers: [numbers[1], numbers[0], *numbers[2:]], {"reordered": 1}),
}


@pytest.mark.parametrize(("alter", "expected"), WITHOUT_IDS.values(), ids=WITHOUT_IDS)
def test_without_ids_faults_are_found_by_the_publishers_numbers(
    alter: Alter, expected: dict[str, int]
) -> None:
    record = DeliveryRecord()
    for _ in range(3):
        publish(record, None)
    subscription = record.start_subscription("anna", CHANNEL, None)
    for _ in range(5):
        publish(record, None)
    for number in alter([4, 5, 6, 7, 8]):
        record.record_delivery(subscription, "b", number, None)
    assert check_deliveries([record.snapshot()]).faults == expected


def test_without_ids_messages_that_other_processes_sent_before_are_not_required() -> None:
    publishers, subscribers = DeliveryRecord(), DeliveryRecord()
    for _ in range(5):
        publish(publishers, None)
    subscription = subscribers.start_subscription("anna", CHANNEL, None)
    assert not check_deliveries([publishers.snapshot(), subscribers.snapshot()]).faults
    subscribers.record_delivery(subscription, "b", 4, None)
    assert check_deliveries([publishers.snapshot(), subscribers.snapshot()]).faults == {"lost": 1}


def test_the_totals_are_the_sums_of_the_channels() -> None:
    record = DeliveryRecord()
    for channel in ("c", "d"):
        publish(record, id_of(1), channel)
    result = check_deliveries([record.snapshot()])
    assert set(result.channels) == {"c", "d"}
    assert result.totals == {**dict.fromkeys(COLUMNS, 0), "published": 2}


# ---------------------------------------------------------------- a history that is lost


def faults_of_lost_history(*, announced: bool) -> dict[str, int]:
    """Return the faults if a server loses its history after two messages, and two more are published."""
    record = DeliveryRecord()
    subscription = record.start_subscription("anna", CHANNEL, id_of(0))
    for offset in (1, 2):
        publish(record, id_of(offset))
    record.record_delivery(subscription, "b", 1, id_of(1))
    if announced:
        record.record_announced_gap(subscription, id_of(0, "new"))
    for number, offset in ((3, 1), (4, 2)):
        publish(record, id_of(offset, "new"))
        record.record_delivery(subscription, "b", number, id_of(offset, "new"))
    assert not record.outstanding()
    return dict(check_deliveries([record.snapshot()]).faults)


def test_a_lost_history_that_the_server_announces_is_no_fault() -> None:
    assert not faults_of_lost_history(announced=True)


def test_a_lost_history_that_the_server_does_not_announce_is_a_fault() -> None:
    assert faults_of_lost_history(announced=False)["misnumbered"] == 1


def test_a_subscriber_that_receives_nothing_of_a_new_history_has_lost_it() -> None:
    record = DeliveryRecord()
    record.start_subscription("anna", CHANNEL, id_of(0))
    publish(record, id_of(1))
    publish(record, id_of(1, "new"))
    assert check_deliveries([record.snapshot()]).faults == {"lost": 2}


def test_a_message_published_again_into_a_new_history_is_no_duplicate() -> None:
    """Its idempotency key was lost with the history, and its publisher had no reply."""
    record = DeliveryRecord()
    subscription = record.start_subscription("anna", CHANNEL, id_of(0))
    number = record.record_attempt(CHANNEL, "b")
    record.record_delivery(subscription, "b", number, id_of(1))
    record.record_announced_gap(subscription, id_of(0, "new"))
    record.record_acknowledgement(CHANNEL, "b", number, id_of(1, "new"))
    record.record_delivery(subscription, "b", number, id_of(1, "new"))
    assert not check_deliveries([record.snapshot()]).faults
