"""Every kind of fault is found, and none is found where there is none."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from loadtests.delivery_check import DeliveryResult, check_deliveries
from loadtests.delivery_record import DeliveryRecord
from loadtests.subscription_record import SubscriptionRecord
from tests.loadtests.message_ids import id_of

CHANNEL = "c"


@dataclass(frozen=True)
class SentMessage:
    """A message: its publisher, its number, whether it was acknowledged, and its offset if it was stored."""

    publisher: str
    number: int
    acknowledged: bool
    offset: int | None


@dataclass
class ChannelModel:
    """A channel with publishers and subscribers, in two processes or in one."""

    publishers: DeliveryRecord
    subscribers: DeliveryRecord
    messages: list[SentMessage] = field(default_factory=list)
    deliveries: dict[SubscriptionRecord, list[SentMessage]] = field(default_factory=dict)
    """What each subscriber is to receive, in this order."""

    def publish(self, publisher: str, *, stored: bool = True, acknowledged: bool = True) -> None:
        number = self.publishers.record_attempt(CHANNEL, publisher)
        offset = sum(message.offset is not None for message in self.messages) + 1 if stored else None
        if acknowledged and stored:
            self.publishers.record_acknowledgement(CHANNEL, publisher, number, id_of(offset))
        message = SentMessage(publisher, number, acknowledged and stored, offset)
        self.messages.append(message)
        for deliveries in self.deliveries.values():
            if stored:
                deliveries.append(message)

    def subscribe(self) -> None:
        newest = sum(message.offset is not None for message in self.messages)
        name = f"s{len(self.deliveries)}"
        self.deliveries[self.subscribers.start_subscription(name, CHANNEL, id_of(newest))] = []

    def deliver(self) -> DeliveryResult:
        for subscription, deliveries in self.deliveries.items():
            for message in deliveries:
                self.subscribers.record_delivery(
                    subscription, message.publisher, message.number, id_of(message.offset)
                )
        records = {id(record): record for record in (self.publishers, self.subscribers)}
        return check_deliveries([record.snapshot() for record in records.values()])


@st.composite
def channel_models(draw: st.DrawFn) -> ChannelModel:
    """Publishers whose outcomes are known or not, and subscribers who subscribe at any time."""
    record = DeliveryRecord()
    model = ChannelModel(record, draw(st.sampled_from([record, DeliveryRecord()])))
    model.subscribe()
    model.publish("b0")
    for action in draw(
        st.lists(st.sampled_from(["publish", "publish", "lose reply", "fail", "subscribe"]), max_size=30)
    ):
        if action == "subscribe":
            model.subscribe()
        else:
            publisher = draw(st.sampled_from(["b0", "b1", "b2"]))
            model.publish(publisher, stored=action != "fail", acknowledged=action != "lose reply")
    model.publish("b1")
    model.publish("b2")
    return model


def faults(result: DeliveryResult) -> dict[str, int]:
    return {**result.faults, **({"late": result.totals["late"]} if result.totals["late"] else {})}


def any_subscription(
    model: ChannelModel, data: st.DataObject
) -> tuple[SubscriptionRecord, list[SentMessage]]:
    return data.draw(st.sampled_from([item for item in model.deliveries.items() if len(item[1]) > 1]))


@given(channel_models())
def test_nothing_is_found_if_everything_is_delivered(model: ChannelModel) -> None:
    result = model.deliver()
    assert not faults(result)
    assert not result.findings
    totals = result.totals
    assert totals["delivered"] == sum(map(len, model.deliveries.values()))
    assert totals["published"] == sum(message.acknowledged for message in model.messages)
    assert totals["unknown"] == sum(not message.acknowledged for message in model.messages)
    assert totals["subscribers"] == len(model.deliveries)


@given(channel_models(), st.data())
def test_one_lost_message_is_found_and_named(model: ChannelModel, data: st.DataObject) -> None:
    subscription, deliveries = any_subscription(model, data)
    lost = data.draw(st.sampled_from([message for message in deliveries if message.acknowledged]))
    deliveries.remove(lost)
    result = model.deliver()
    assert faults(result) == {"lost": 1}
    (finding,) = result.findings
    assert (finding.kind, finding.subscriber, finding.channel, finding.count) == (
        "lost",
        subscription.subscriber,
        CHANNEL,
        1,
    )
    assert finding.messages == (f"{lost.publisher}#{lost.number} at {lost.offset}",)


@given(channel_models(), st.data())
def test_the_loss_of_an_unacknowledged_message_is_found_by_its_missing_offset(
    model: ChannelModel, data: st.DataObject
) -> None:
    model.publish("b0", acknowledged=False)
    unacknowledged = model.messages[-1]
    model.publish("b1")
    _, deliveries = any_subscription(model, data)
    deliveries.remove(unacknowledged)
    assert faults(model.deliver()) == {"lost": 1}


@given(channel_models(), st.data())
def test_one_duplicated_message_is_found(model: ChannelModel, data: st.DataObject) -> None:
    _, deliveries = any_subscription(model, data)
    first = data.draw(st.integers(0, len(deliveries) - 1))
    again = data.draw(st.integers(first + 1, len(deliveries)))
    deliveries.insert(again, deliveries[first])
    assert faults(model.deliver()) == {"duplicated": 1}


@given(channel_models(), st.data())
def test_one_message_delivered_after_later_ones_is_found(model: ChannelModel, data: st.DataObject) -> None:
    _, deliveries = any_subscription(model, data)
    early = data.draw(st.integers(0, len(deliveries) - 2))
    late = data.draw(st.integers(early + 1, len(deliveries) - 1))
    deliveries.insert(late, deliveries.pop(early))
    assert faults(model.deliver()) == {"reordered": 1}


@given(channel_models(), st.data())
def test_one_late_message_is_found(model: ChannelModel, data: st.DataObject) -> None:
    subscription, deliveries = any_subscription(model, data)
    late = data.draw(st.sampled_from(deliveries))
    subscription.record_late(late.publisher, late.number, late.offset)
    result = model.deliver()
    assert faults(result) == {"late": 1}
    (finding,) = result.findings
    assert finding.messages == (f"{late.publisher}#{late.number} at {late.offset}",)


@given(channel_models(), st.data())
def test_a_message_under_the_id_of_an_earlier_one_is_found(model: ChannelModel, data: st.DataObject) -> None:
    _, deliveries = any_subscription(model, data)
    index = data.draw(st.integers(1, len(deliveries) - 1))
    wrong = deliveries[index]
    earlier = deliveries[index - 1].offset
    deliveries[index] = SentMessage(wrong.publisher, wrong.number, wrong.acknowledged, earlier)
    assert faults(model.deliver())["misnumbered"] >= 1


@given(channel_models(), st.data())
def test_messages_that_the_server_announces_as_missing_are_not_lost(
    model: ChannelModel, data: st.DataObject
) -> None:
    subscription, deliveries = any_subscription(model, data)
    begin = data.draw(st.integers(0, len(deliveries) - 1))
    end = data.draw(st.integers(begin + 1, len(deliveries)))
    for message in deliveries[:begin]:
        model.subscribers.record_delivery(
            subscription, message.publisher, message.number, id_of(message.offset)
        )
    model.subscribers.record_announced_gap(subscription, id_of(deliveries[end - 1].offset))
    del deliveries[:end]
    result = model.deliver()
    assert not faults(result)
    assert result.totals["announced"] == end - begin


@given(channel_models())
def test_an_acknowledged_message_that_never_got_an_offset_is_lost(model: ChannelModel) -> None:
    """A server that answers 200 and discards: no offset is missing, but a number of the publisher is."""
    model.publish("b0")
    number = model.publishers.record_attempt(CHANNEL, "b0")
    model.publishers.record_acknowledgement(CHANNEL, "b0", number, None)
    model.publish("b0")
    assert faults(model.deliver()) == {"lost": len(model.deliveries)}


def test_publishers_and_subscribers_must_agree_on_the_order() -> None:
    record = DeliveryRecord()
    subscription = record.start_subscription("anna", CHANNEL, id_of(0))
    record.record_attempt(CHANNEL, "b")
    record.record_delivery(subscription, "b", 1, id_of(1))
    record.record_acknowledgement(CHANNEL, "b", 1, id_of(2))
    result = check_deliveries([record.snapshot()])
    misnumbered = [finding for finding in result.findings if finding.kind == "misnumbered"]
    assert [finding.subscriber for finding in misnumbered] == ["(publishers)"]


def test_a_message_that_nobody_sent_is_misnumbered() -> None:
    record = DeliveryRecord()
    subscription = record.start_subscription("anna", CHANNEL, id_of(0))
    record.record_attempt(CHANNEL, "b")
    record.record_delivery(subscription, "b", 1, id_of(1))
    record.record_delivery(subscription, "b", 2, id_of(2))
    assert check_deliveries([record.snapshot()]).faults == {"misnumbered": 1}
