"""Messages that come not at all, twice, or late: each plants one such fault, and says what must be found.

Each finds a place where it is a fault beyond doubt, or raises `NoPlace`.
"""

from __future__ import annotations

from dataclasses import replace

from tests.chaos.history import Attempted, Delivered, Heard, Resolved, Result
from tests.chaos.scene import Expected, NoPlace, Planted, Scene, with_ids, with_names
from tests.chaos.verdict import Kind

# ---------------------------------------------------------------- lost


def one_delivery_is_left_out(scene: Scene) -> Planted:
    at, event, _, _ = scene.pick(pair for pair in scene.pairs() if _known_elsewhere(scene, pair[1]))
    return scene.put(at, instead=1), Expected((Kind.LOST,), event.channel, event.client, event.message.id)


def _known_elsewhere(scene: Scene, event: Delivered) -> bool:
    """Whether somebody beside its client knows the message."""
    return scene.result(event.message) is Result.OK or scene.times_heard(event.message) > 1


def the_newest_does_not_come_to_one(scene: Scene) -> Planted:
    at, event = scene.pick(_newest(scene))
    return scene.put(at, instead=1), Expected((Kind.LOST,), event.channel, event.client, event.message.id)


def _newest(scene: Scene) -> list[tuple[int, Delivered]]:
    """Last deliveries to those who stay, where others know that there is something."""
    return [
        (at, event)
        for at, event in scene.deliveries
        if scene.next(at, event.client, event.channel) is None
        and _known_elsewhere(scene, event)
        and not scene.reset_after(scene.attempts[event.message.publish], event.channel)
    ]


def a_client_stays_and_hears_no_more(scene: Scene) -> Planted:
    _, last = scene.pick(_newest(scene))
    own = [
        at for at, event in scene.deliveries if (event.client, event.channel) == (last.client, last.channel)
    ]
    silent_from = scene.random.choice(own)
    begun = scene.begun(own[-1], last.client, last.channel) or 0
    resumed = [
        at for at, answer in scene.answers if (answer.client, answer.channel) == (last.client, last.channel)
    ]
    if silent_from < max([begun, *resumed]):
        raise NoPlace
    left = [event for at, event in enumerate(scene.events) if at not in own or at < silent_from]
    return left, Expected((Kind.LOST,), last.channel, last.client, last.message.id)


def a_resume_leaves_one_out(scene: Scene) -> Planted:
    at, event = scene.pick(scene.resumes(least=1))
    which = scene.random.randrange(len(event.messages))
    less = replace(event, messages=event.messages[:which] + event.messages[which + 1 :])
    expected = Expected((Kind.LOST, Kind.SILENT), event.channel, event.client)
    return scene.put(at, less, instead=1), expected


def a_resume_stops_before_the_end(scene: Scene) -> Planted:
    """The position agrees with what it brings: only time tells that there was more, and acknowledged."""
    places = [
        (at, event)
        for at, event in scene.resumes(least=2)
        if scene.owed(at, event.client, event.channel, event.messages[-1])
        and not scene.forsaken(at, event.client, event.channel)
    ]
    at, event = scene.pick(places)
    *rest, last = event.messages
    less = replace(event, messages=tuple(rest), position=rest[-1].id)
    return scene.put(at, less, instead=1), Expected((Kind.LOST,), event.channel, event.client, last.id)


def the_server_forgets_one_before_it_numbers_it(scene: Scene) -> Planted:
    """It acknowledges, and nobody hears: no number shows it, only the time of what comes later."""
    places = [
        (begun + 1, scene.attempts[event.message.publish], event)
        for at, event in scene.deliveries
        if (begun := scene.begun(at, event.client, event.channel)) is not None
        and begun < scene.attempts[event.message.publish]
    ]
    earliest, latest, event = scene.pick(places)
    forgotten = Attempted("forgotten", event.channel), Resolved("forgotten", Result.OK)
    where = scene.random.randint(earliest, latest)
    return scene.put(where, *forgotten), Expected((Kind.LOST,), event.channel, event.client, "forgotten")


# ---------------------------------------------------------------- duplicated


def one_delivery_comes_again(scene: Scene) -> Planted:
    at, event = scene.pick(scene.deliveries)
    later = [
        place
        for place, other in scene.deliveries
        if place >= at and (other.client, other.channel) == (event.client, event.channel)
    ]
    again = scene.put(scene.random.choice(later) + 1, event)
    return again, Expected((Kind.DUPLICATED,), event.channel, event.client, event.message.id)


def a_resume_brings_what_was_there(scene: Scene) -> Planted:
    places = [
        (at, event, message)
        for at, event in scene.resumes(least=0)
        for message in scene.heard(at, event.client, event.channel)
    ]
    at, event, message = scene.pick(places)
    more = replace(event, messages=(message, *event.messages))
    expected = Expected((Kind.DUPLICATED,), event.channel, event.client, message.id)
    return scene.put(at, more, instead=1), expected


def one_publish_is_stored_twice(scene: Scene) -> Planted:
    _, first, at, second = scene.pick(scene.pairs())
    again = replace(second, message=Heard(second.message.id, first.message.publish))
    expected = Expected((Kind.DUPLICATED,), first.channel, first.client, first.message.id)
    return scene.put(at, again, instead=1), expected


# ---------------------------------------------------------------- reordered


def two_deliveries_change_places(scene: Scene) -> Planted:
    at, event, place, _ = scene.pick(scene.pairs())
    expected = Expected((Kind.REORDERED,), event.channel, event.client, event.message.id)
    return scene.swap(at, place), expected


def the_server_orders_against_time(scene: Scene) -> Planted:
    """Two publishes, one acknowledged before the other was attempted, get each other's ids, for everybody."""
    answers = [
        (at, event) for at, event in enumerate(scene.events) if isinstance(event, Resolved) and event.id
    ]
    places = [
        (one, other)
        for at, one in answers
        for _, other in answers
        if at < scene.attempts[other.publish]
        and scene.channels[one.publish] == scene.channels[other.publish]
        and not scene.reset_after(scene.attempts[one.publish], scene.channels[one.publish])
    ]
    one, other = scene.pick(places)
    ids = {one.id: other.id, other.id: one.id}
    names = {one.publish: other.publish, other.publish: one.publish}
    events = [
        with_ids(event, ids) if isinstance(event, Resolved) else with_names(event, names)
        for event in scene.events
    ]
    return events, Expected((Kind.REORDERED,), scene.channels[one.publish], "", one.id)


SEEDS = (
    one_delivery_is_left_out,
    the_newest_does_not_come_to_one,
    a_client_stays_and_hears_no_more,
    a_resume_leaves_one_out,
    a_resume_stops_before_the_end,
    the_server_forgets_one_before_it_numbers_it,
    one_delivery_comes_again,
    a_resume_brings_what_was_there,
    one_publish_is_stored_twice,
    two_deliveries_change_places,
    the_server_orders_against_time,
)
