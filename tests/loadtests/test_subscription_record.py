from loadtests.message_ordinals import HISTORY_STRIDE
from loadtests.subscription_record import MAX_SAMPLES_PER_KIND, SubscriptionRecord


def subscription_from(start: int | None = 0) -> SubscriptionRecord:
    return SubscriptionRecord("anna", "c", start)


def test_announced_messages_are_counted_and_not_missing() -> None:
    subscription = subscription_from()
    subscription.record_delivery("b", 1, 1)
    subscription.record_announced_gap(5)
    subscription.record_delivery("b", 6, 6)
    assert subscription.nothing_missing
    assert subscription.counts() == {
        "delivered": 2,
        "duplicated": 0,
        "reordered": 0,
        "misnumbered": 0,
        "late": 0,
        "announced": 4,
    }


def test_messages_that_were_missing_before_are_not_part_of_an_announced_gap() -> None:
    subscription = subscription_from()
    subscription.record_delivery("b", 2, 2)
    subscription.record_announced_gap(5)
    assert subscription.snapshot()["missing"] == [1]


def test_an_announced_new_history_is_checked_from_its_position() -> None:
    subscription = subscription_from()
    for number in (1, 2, 3):
        subscription.record_delivery("b", number, number)
    subscription.record_announced_gap(HISTORY_STRIDE + 2)
    subscription.record_delivery("b", 3, HISTORY_STRIDE + 3)
    assert subscription.nothing_missing
    assert (subscription.misnumbered, subscription.duplicated, subscription.announced) == (0, 0, 2)


def test_a_new_history_that_is_not_announced_is_a_fault() -> None:
    subscription = subscription_from()
    subscription.record_delivery("b", 1, 1)
    subscription.record_delivery("b", 2, HISTORY_STRIDE + 1)
    subscription.record_delivery("b", 3, HISTORY_STRIDE + 2)
    assert subscription.misnumbered == 1


def test_a_newer_message_under_an_older_id_is_a_fault() -> None:
    subscription = subscription_from()
    for number in (1, 2, 3):
        subscription.record_delivery("b", number, number)
    subscription.record_delivery("b", 4, 1)
    assert subscription.misnumbered == 1


def test_a_message_that_was_stored_twice_is_a_duplicate() -> None:
    subscription = subscription_from()
    subscription.record_delivery("b", 1, 1)
    subscription.record_delivery("b", 1, 2)
    subscription.record_delivery("b", 2, 3)
    assert (subscription.duplicated, subscription.snapshot()["missing"]) == (1, [])


def test_messages_that_a_recovery_omits_are_missing() -> None:
    subscription = subscription_from()
    subscription.record_delivery("b", 1, 1)
    subscription.require_through(3)
    assert subscription.snapshot()["missing"] == [2, 3]


def test_a_closed_subscription_requires_what_was_sent_before_it_ended() -> None:
    subscription = subscription_from()
    subscription.record_delivery("b", 1, 1)
    subscription.close(through=2)
    assert subscription.snapshot()["missing"] == [2]
    assert not subscription.outstanding(10)


def test_it_counts_what_is_outstanding() -> None:
    subscription = subscription_from(5)
    assert subscription.outstanding(7) == 2
    subscription.record_delivery("b", 1, 6)
    assert subscription.outstanding(7) == 1
    assert not subscription.outstanding(6)
    assert subscription.outstanding(HISTORY_STRIDE + 6) == 1


def test_only_the_first_faults_of_a_kind_are_named() -> None:
    subscription = subscription_from()
    for number in range(1, 10):
        subscription.record_late("b", number, number)
    subscription.record_delivery("b", 1, 1)
    subscription.record_delivery("b", 1, 1)
    assert [kind for kind, _ in subscription.samples] == ["late"] * MAX_SAMPLES_PER_KIND + ["duplicated"]
    assert subscription.late == 9
