"""Faults to plant into a clean history, each with the violation that the checker must then find.

Each function takes a `CleanHistory` and returns the changed events and the expected violation. It raises
`NoPlace` where the history has no place in which the change is certainly a violation.
"""

from __future__ import annotations

from dataclasses import replace

from tests.chaos.clean_history import (
    CleanHistory,
    ExpectedViolation,
    NoPlace,
    PlantedFault,
    shifted,
    with_ids,
    with_names,
)
from tests.chaos.history import (
    Delivered,
    Gap,
    PublishAttempted,
    PublishResolved,
    PublishResult,
    ReceivedMessage,
    SubscriptionEnded,
    offset,
)
from tests.chaos.verdict import ViolationKind

# ---------------------------------------------------------------- lost


def one_delivery_missing(history: CleanHistory) -> PlantedFault:
    at, event, _, _ = history.pick(
        pair for pair in history.consecutive_deliveries() if _observed_by_others(history, pair[1])
    )
    return history.with_events(at, replaced=1), ExpectedViolation(
        (ViolationKind.LOST,), event.channel, event.client, event.message.id
    )


def _observed_by_others(history: CleanHistory, event: Delivered) -> bool:
    """Whether its publisher or another client observed the message."""
    return history.result_of(event.message) is PublishResult.OK or history.times_received(event.message) > 1


def last_delivery_missing_at_one_client(history: CleanHistory) -> PlantedFault:
    at, event = history.pick(_last_deliveries(history))
    return history.with_events(at, replaced=1), ExpectedViolation(
        (ViolationKind.LOST,), event.channel, event.client, event.message.id
    )


def _last_deliveries(history: CleanHistory) -> list[tuple[int, Delivered]]:
    """The last deliveries to clients that stay subscribed, of messages that others observed."""
    return [
        (at, event)
        for at, event in history.deliveries
        if history.next_place(at, event.client, event.channel) is None
        and _observed_by_others(history, event)
        and not history.is_reset_after(history.attempts[event.message.publish], event.channel)
    ]


def deliveries_to_a_client_stop(history: CleanHistory) -> PlantedFault:
    _, last = history.pick(_last_deliveries(history))
    own = [
        at for at, event in history.deliveries if (event.client, event.channel) == (last.client, last.channel)
    ]
    silent_from = history.random.choice(own)
    segment_start = history.segment_start(own[-1], last.client, last.channel) or 0
    resumed = [
        at for at, answer in history.answers if (answer.client, answer.channel) == (last.client, last.channel)
    ]
    if silent_from < max([segment_start, *resumed]):
        raise NoPlace
    left = [event for at, event in enumerate(history.events) if at not in own or at < silent_from]
    return left, ExpectedViolation((ViolationKind.LOST,), last.channel, last.client, last.message.id)


def recovery_omits_a_message(history: CleanHistory) -> PlantedFault:
    at, event = history.pick(history.recoveries(min_messages=1))
    which = history.random.randrange(len(event.messages))
    less = replace(event, messages=event.messages[:which] + event.messages[which + 1 :])
    expected = ExpectedViolation((ViolationKind.LOST, ViolationKind.SILENT), event.channel, event.client)
    return history.with_events(at, less, replaced=1), expected


def recovery_omits_the_last_message(history: CleanHistory) -> PlantedFault:
    """Position and messages agree; only the time of the acknowledgement shows that one is missing."""
    places = [
        (at, event)
        for at, event in history.recoveries(min_messages=2)
        if history.must_recover(at, event.client, event.channel, event.messages[-1])
        and not history.reset_notice_follows(at, event.client, event.channel)
    ]
    at, event = history.pick(places)
    *rest, last = event.messages
    less = replace(event, messages=tuple(rest), position=rest[-1].id)
    return history.with_events(at, less, replaced=1), ExpectedViolation(
        (ViolationKind.LOST,), event.channel, event.client, last.id
    )


def acknowledged_message_never_stored(history: CleanHistory) -> PlantedFault:
    """No client receives it and no number is missing; only the time of later messages shows the loss."""
    places = [
        (segment_start + 1, history.attempts[event.message.publish], event)
        for at, event in history.deliveries
        if (segment_start := history.segment_start(at, event.client, event.channel)) is not None
        and segment_start < history.attempts[event.message.publish]
    ]
    earliest, latest, event = history.pick(places)
    forgotten = PublishAttempted("forgotten", event.channel), PublishResolved("forgotten", PublishResult.OK)
    where = history.random.randint(earliest, latest)
    return history.with_events(where, *forgotten), ExpectedViolation(
        (ViolationKind.LOST,), event.channel, event.client, "forgotten"
    )


# ---------------------------------------------------------------- duplicated


def one_delivery_repeated(history: CleanHistory) -> PlantedFault:
    at, event = history.pick(history.deliveries)
    later = [
        place
        for place, other in history.deliveries
        if place >= at and (other.client, other.channel) == (event.client, event.channel)
    ]
    again = history.with_events(history.random.choice(later) + 1, event)
    return again, ExpectedViolation(
        (ViolationKind.DUPLICATED,), event.channel, event.client, event.message.id
    )


def recovery_repeats_a_message(history: CleanHistory) -> PlantedFault:
    places = [
        (at, event, message)
        for at, event in history.recoveries(min_messages=0)
        for message in history.received_before(at, event.client, event.channel)
    ]
    at, event, message = history.pick(places)
    more = replace(event, messages=(message, *event.messages))
    expected = ExpectedViolation((ViolationKind.DUPLICATED,), event.channel, event.client, message.id)
    return history.with_events(at, more, replaced=1), expected


def one_publish_stored_twice(history: CleanHistory) -> PlantedFault:
    _, first, at, second = history.pick(history.consecutive_deliveries())
    again = replace(second, message=ReceivedMessage(second.message.id, first.message.publish))
    expected = ExpectedViolation((ViolationKind.DUPLICATED,), first.channel, first.client, first.message.id)
    return history.with_events(at, again, replaced=1), expected


# ---------------------------------------------------------------- reordered


def two_deliveries_swapped(history: CleanHistory) -> PlantedFault:
    at, event, place, _ = history.pick(history.consecutive_deliveries())
    expected = ExpectedViolation((ViolationKind.REORDERED,), event.channel, event.client, event.message.id)
    return history.with_swapped(at, place), expected


def server_order_contradicts_acknowledgements(history: CleanHistory) -> PlantedFault:
    """Two publishes, one acknowledged before the other was attempted, exchange ids at all clients."""
    answers = [
        (at, event)
        for at, event in enumerate(history.events)
        if isinstance(event, PublishResolved) and event.id
    ]
    places = [
        (one, other)
        for at, one in answers
        for _, other in answers
        if at < history.attempts[other.publish]
        and history.channels[one.publish] == history.channels[other.publish]
        and not history.is_reset_after(history.attempts[one.publish], history.channels[one.publish])
    ]
    one, other = history.pick(places)
    ids = {one.id: other.id, other.id: one.id}
    names = {one.publish: other.publish, other.publish: one.publish}
    events = [
        with_ids(event, ids) if isinstance(event, PublishResolved) else with_names(event, names)
        for event in history.events
    ]
    return events, ExpectedViolation((ViolationKind.REORDERED,), history.channels[one.publish], "", one.id)


# ---------------------------------------------------------------- diverging


def two_clients_receive_different_data(history: CleanHistory) -> PlantedFault:
    at, event = history.pick(history.deliveries_with(PublishResult.OK))
    others = [name for name, channel in history.channels.items() if channel == event.channel]
    other = history.pick(name for name in others if name != event.message.publish)
    wrong = replace(event, message=ReceivedMessage(event.message.id, other))
    expected = ExpectedViolation((ViolationKind.DIVERGING,), event.channel, event.client, event.message.id)
    return history.with_events(at, wrong, replaced=1), expected


def two_clients_receive_different_orders(history: CleanHistory) -> PlantedFault:
    """One client receives the numbers in order, but the messages of two of them exchanged."""
    at, one, place, other = history.pick(
        pair
        for pair in history.consecutive_deliveries()
        if PublishResult.OK in map(history.result_of, (pair[1].message, pair[3].message))
    )
    events = list(history.events)
    events[at] = replace(one, message=ReceivedMessage(one.message.id, other.message.publish))
    events[place] = replace(other, message=ReceivedMessage(other.message.id, one.message.publish))
    known = one if history.result_of(one.message) is PublishResult.OK else other
    return events, ExpectedViolation((ViolationKind.DIVERGING,), one.channel, one.client, known.message.id)


def one_message_has_two_uids(history: CleanHistory) -> PlantedFault:
    at, event = history.pick(
        (at, event)
        for at, event in history.deliveries_with(PublishResult.OK)
        if not history.is_reset_after(history.attempts[event.message.publish], event.channel)
    )
    wrong = replace(
        event, message=ReceivedMessage(f"{offset(event.message.id)}-other", event.message.publish)
    )
    expected = ExpectedViolation((ViolationKind.DIVERGING,), event.channel, event.client, event.message.id)
    return history.with_events(at, wrong, replaced=1), expected


def one_number_assigned_to_two_messages(history: CleanHistory) -> PlantedFault:
    """A client receives another message than the others under one number."""
    at, event = history.pick(
        (at, event) for at, event in history.deliveries if not history.is_reset_after(0, event.channel)
    )
    if history.times_received(event.message) + (history.result_of(event.message) is PublishResult.OK) < 2:
        raise NoPlace
    own = ReceivedMessage(f"{offset(event.message.id)}-own", "own")
    expected = ExpectedViolation((ViolationKind.DIVERGING,), event.channel, event.client, own.id)
    return history.with_events(
        at, PublishAttempted("own", event.channel), replace(event, message=own), replaced=1
    ), expected


def client_receives_a_forked_history(history: CleanHistory) -> PlantedFault:
    """From some place on, one client receives other ids than all other clients and the publishers."""
    at, event = history.pick(
        (at, event)
        for at, event in history.deliveries_with(PublishResult.OK)
        if not history.is_reset_after(0, event.channel)
    )
    ids = {
        message.id: f"{offset(message.id)}-forked"
        for message in history.received_before(len(history.events), event.client, event.channel)
        if offset(message.id) >= offset(event.message.id)
    }
    events = [
        with_ids(each, ids) if place >= at and getattr(each, "client", "") == event.client else each
        for place, each in enumerate(history.events)
    ]
    return events, ExpectedViolation(
        (ViolationKind.DIVERGING,), event.channel, event.client, event.message.id
    )


def publisher_receives_another_id(history: CleanHistory) -> PlantedFault:
    _, event = history.pick(history.deliveries_with(PublishResult.OK))
    outcome = history.outcomes[event.message.publish]
    at = history.events.index(outcome)
    wrong = history.with_events(at, replace(outcome, id=shifted(outcome.id, 1)), replaced=1)
    return wrong, ExpectedViolation((ViolationKind.DIVERGING,), event.channel, None, event.message.id)


def unknown_publish_has_two_ids(history: CleanHistory) -> PlantedFault:
    """Two clients receive it, each under another id."""
    at, event, there = history.pick(
        (at, event, there)
        for at, event in history.deliveries
        for _, there in history.deliveries_with(PublishResult.UNKNOWN)
        if (event.channel, event.client != there.client) == (there.channel, True)
        if event.message != there.message
    )
    wrong = replace(event, message=ReceivedMessage(event.message.id, there.message.publish))
    expected = ExpectedViolation((ViolationKind.DIVERGING,), event.channel, event.client, there.message.id)
    return history.with_events(at, wrong, replaced=1), expected


# ---------------------------------------------------------------- phantom


def message_nobody_published(history: CleanHistory) -> PlantedFault:
    at, event = history.pick(history.deliveries)
    ghost = replace(event, message=ReceivedMessage(shifted(event.message.id, 1_000), "ghost"))
    expected = ExpectedViolation((ViolationKind.PHANTOM,), event.channel, event.client, ghost.message.id)
    return history.with_events(at + 1, ghost), expected


def rejected_message_delivered(history: CleanHistory) -> PlantedFault:
    refused = [name for name, outcome in history.outcomes.items() if outcome.result is PublishResult.FAILED]
    at, event, name = history.pick(
        (at, event, name)
        for at, event in history.deliveries
        for name in refused
        if history.channels[name] == event.channel
    )
    ghost = replace(event, message=ReceivedMessage(shifted(event.message.id, 1_000), name))
    expected = ExpectedViolation((ViolationKind.PHANTOM,), event.channel, event.client, ghost.message.id)
    return history.with_events(at + 1, ghost), expected


def message_delivered_before_its_publish(history: CleanHistory) -> PlantedFault:
    at, event, later = history.pick(
        (at, event, name)
        for at, event in history.deliveries
        for name, attempted in history.attempts.items()
        if attempted > at and history.channels[name] == event.channel
    )
    ghost = replace(event, message=ReceivedMessage(shifted(event.message.id, 1_000), later))
    expected = ExpectedViolation((ViolationKind.PHANTOM,), event.channel, event.client, ghost.message.id)
    return history.with_events(at + 1, ghost), expected


def message_of_another_channel(history: CleanHistory) -> PlantedFault:
    at, event = history.pick(history.deliveries)
    other = history.pick(channel for channel in history.channels.values() if channel != event.channel)
    expected = ExpectedViolation((ViolationKind.PHANTOM,), other, event.client, event.message.id)
    return history.with_events(at, replace(event, channel=other), replaced=1), expected


def message_after_the_subscription_ended(history: CleanHistory) -> PlantedFault:
    at, event = history.pick(history.deliveries)
    place = history.next_place(at, event.client, event.channel)
    if place is None or not isinstance(history.events[place], SubscriptionEnded):
        raise NoPlace
    expected = ExpectedViolation((ViolationKind.PHANTOM,), event.channel, event.client, event.message.id)
    return history.with_events(place + 1, event), expected


# ---------------------------------------------------------------- silent


def gap_missing(history: CleanHistory) -> PlantedFault:
    at, event = history.pick(history.gaps)
    place, before = history.next_place(at, event.client, event.channel), _last_position(history, at, event)
    if place is None or before is None or not isinstance(after := history.events[place], Delivered):
        raise NoPlace
    if offset(after.message.id) == offset(before) + 1:
        raise NoPlace
    expected = ExpectedViolation(
        (ViolationKind.SILENT, ViolationKind.REORDERED), event.channel, event.client, after.message.id
    )
    return history.with_events(at, replaced=1), expected


def _last_position(history: CleanHistory, at: int, gap: Gap) -> str | None:
    """The position of the client before it received *gap*."""
    received_before = history.received_before(at, gap.client, gap.channel)
    segment_start = history.segment_start(at, gap.client, gap.channel)
    if segment_start is None:
        return None
    since_then = received_before[len(history.received_before(segment_start, gap.client, gap.channel)) :]
    start = history.events[segment_start]
    return since_then[-1].id if since_then else getattr(start, "position", None)


def gap_position_too_old(history: CleanHistory) -> PlantedFault:
    at, event = history.pick((at, event) for at, event in history.gaps if offset(event.position))
    place = history.next_place(at, event.client, event.channel)
    if place is None or not isinstance(after := history.events[place], Delivered):
        raise NoPlace
    expected = ExpectedViolation((ViolationKind.SILENT,), event.channel, event.client, after.message.id)
    return history.with_events(at, replace(event, position=shifted(event.position, -1)), replaced=1), expected


def failed_recovery_claimed_as_recovered(history: CleanHistory) -> PlantedFault:
    at, event = history.pick((at, event) for at, event in history.answers if not event.recovered)
    _, request_of = history.request_of(at, event.client, event.channel)
    if request_of.since in (None, event.position):
        raise NoPlace
    expected = ExpectedViolation((ViolationKind.SILENT,), event.channel, event.client, event.position)
    return history.with_events(at, replace(event, recovered=True), replaced=1), expected


def recovery_claims_a_later_position(history: CleanHistory) -> PlantedFault:
    at, event = history.pick(history.recoveries(min_messages=0))
    beyond = shifted(event.position, 1)
    expected = ExpectedViolation((ViolationKind.SILENT,), event.channel, event.client, beyond)
    return history.with_events(at, replace(event, position=beyond), replaced=1), expected


def server_skips_a_number(history: CleanHistory) -> PlantedFault:
    """At all clients: no message is known to be lost, but none of them can know that."""
    _, first, _, second = history.pick(
        pair for pair in history.consecutive_deliveries() if not history.is_reset_after(0, pair[1].channel)
    )
    ids = {id: shifted(id, 1) for id in history.ids(first.channel) if offset(id) >= offset(second.message.id)}
    expected = ExpectedViolation((ViolationKind.SILENT,), first.channel, first.client, first.message.id)
    return [with_ids(event, ids) for event in history.events], expected


PLANTED_FAULTS = (
    one_delivery_missing,
    last_delivery_missing_at_one_client,
    deliveries_to_a_client_stop,
    recovery_omits_a_message,
    recovery_omits_the_last_message,
    acknowledged_message_never_stored,
    one_delivery_repeated,
    recovery_repeats_a_message,
    one_publish_stored_twice,
    two_deliveries_swapped,
    server_order_contradicts_acknowledgements,
    two_clients_receive_different_data,
    two_clients_receive_different_orders,
    one_message_has_two_uids,
    one_number_assigned_to_two_messages,
    client_receives_a_forked_history,
    publisher_receives_another_id,
    unknown_publish_has_two_ids,
    message_nobody_published,
    rejected_message_delivered,
    message_delivered_before_its_publish,
    message_of_another_channel,
    message_after_the_subscription_ended,
    gap_missing,
    gap_position_too_old,
    failed_recovery_claimed_as_recovered,
    recovery_claims_a_later_position,
    server_skips_a_number,
)
