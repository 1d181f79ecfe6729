"""Data, numbers, messages and promises that are not true: each plants one, and says what must be found.

Each finds a place where it is a lie beyond doubt, or raises `NoPlace`.
"""

from __future__ import annotations

from dataclasses import replace

from tests.chaos.history import Attempted, Delivered, Gap, Heard, Left, Result, offset
from tests.chaos.scene import Expected, NoPlace, Planted, Scene, moved, with_ids
from tests.chaos.verdict import Kind

# ---------------------------------------------------------------- diverging


def two_clients_get_other_data(scene: Scene) -> Planted:
    at, event = scene.pick(scene.sent(result=Result.OK))
    others = [name for name, channel in scene.channels.items() if channel == event.channel]
    other = scene.pick(name for name in others if name != event.message.publish)
    wrong = replace(event, message=Heard(event.message.id, other))
    expected = Expected((Kind.DIVERGING,), event.channel, event.client, event.message.id)
    return scene.put(at, wrong, instead=1), expected


def two_clients_get_another_order(scene: Scene) -> Planted:
    """Numbers in order, but not the messages."""
    at, one, place, other = scene.pick(
        pair for pair in scene.pairs() if Result.OK in map(scene.result, (pair[1].message, pair[3].message))
    )
    events = list(scene.events)
    events[at] = replace(one, message=Heard(one.message.id, other.message.publish))
    events[place] = replace(other, message=Heard(other.message.id, one.message.publish))
    known = one if scene.result(one.message) is Result.OK else other
    return events, Expected((Kind.DIVERGING,), one.channel, one.client, known.message.id)


def one_number_has_two_uids(scene: Scene) -> Planted:
    at, event = scene.pick(
        (at, event)
        for at, event in scene.sent(result=Result.OK)
        if not scene.reset_after(scene.attempts[event.message.publish], event.channel)
    )
    wrong = replace(event, message=Heard(f"{offset(event.message.id)}-other", event.message.publish))
    expected = Expected((Kind.DIVERGING,), event.channel, event.client, event.message.id)
    return scene.put(at, wrong, instead=1), expected


def one_number_is_given_to_two(scene: Scene) -> Planted:
    """A client gets a message of its own in the place of the one that others get."""
    at, event = scene.pick(
        (at, event) for at, event in scene.deliveries if not scene.reset_after(0, event.channel)
    )
    if scene.times_heard(event.message) + (scene.result(event.message) is Result.OK) < 2:
        raise NoPlace
    own = Heard(f"{offset(event.message.id)}-own", "own")
    expected = Expected((Kind.DIVERGING,), event.channel, event.client, own.id)
    return scene.put(at, Attempted("own", event.channel), replace(event, message=own), instead=1), expected


def a_client_follows_a_second_history(scene: Scene) -> Planted:
    """From some moment on, one client's messages are not those that all others and the publishers know."""
    at, event = scene.pick(
        (at, event) for at, event in scene.sent(result=Result.OK) if not scene.reset_after(0, event.channel)
    )
    ids = {
        message.id: f"{offset(message.id)}-forked"
        for message in scene.heard(len(scene.events), event.client, event.channel)
        if offset(message.id) >= offset(event.message.id)
    }
    events = [
        with_ids(each, ids) if place >= at and getattr(each, "client", "") == event.client else each
        for place, each in enumerate(scene.events)
    ]
    return events, Expected((Kind.DIVERGING,), event.channel, event.client, event.message.id)


def the_publisher_is_told_another_id(scene: Scene) -> Planted:
    _, event = scene.pick(scene.sent(result=Result.OK))
    outcome = scene.outcomes[event.message.publish]
    at = scene.events.index(outcome)
    wrong = scene.put(at, replace(outcome, id=moved(outcome.id, 1)), instead=1)
    return wrong, Expected((Kind.DIVERGING,), event.channel, None, event.message.id)


def an_unknown_publish_is_in_two_places(scene: Scene) -> Planted:
    """Two clients hear it, each under an id of its own."""
    at, event, there = scene.pick(
        (at, event, there)
        for at, event in scene.deliveries
        for _, there in scene.sent(result=Result.UNKNOWN)
        if (event.channel, event.client != there.client) == (there.channel, True)
        if event.message != there.message
    )
    wrong = replace(event, message=Heard(event.message.id, there.message.publish))
    expected = Expected((Kind.DIVERGING,), event.channel, event.client, there.message.id)
    return scene.put(at, wrong, instead=1), expected


# ---------------------------------------------------------------- phantom


def nobody_published_it(scene: Scene) -> Planted:
    at, event = scene.pick(scene.deliveries)
    ghost = replace(event, message=Heard(moved(event.message.id, 1_000), "ghost"))
    expected = Expected((Kind.PHANTOM,), event.channel, event.client, ghost.message.id)
    return scene.put(at + 1, ghost), expected


def it_was_refused(scene: Scene) -> Planted:
    refused = [name for name, outcome in scene.outcomes.items() if outcome.result is Result.FAILED]
    at, event, name = scene.pick(
        (at, event, name)
        for at, event in scene.deliveries
        for name in refused
        if scene.channels[name] == event.channel
    )
    ghost = replace(event, message=Heard(moved(event.message.id, 1_000), name))
    expected = Expected((Kind.PHANTOM,), event.channel, event.client, ghost.message.id)
    return scene.put(at + 1, ghost), expected


def it_comes_before_it_was_sent(scene: Scene) -> Planted:
    at, event, later = scene.pick(
        (at, event, name)
        for at, event in scene.deliveries
        for name, attempted in scene.attempts.items()
        if attempted > at and scene.channels[name] == event.channel
    )
    ghost = replace(event, message=Heard(moved(event.message.id, 1_000), later))
    expected = Expected((Kind.PHANTOM,), event.channel, event.client, ghost.message.id)
    return scene.put(at + 1, ghost), expected


def it_was_published_elsewhere(scene: Scene) -> Planted:
    at, event = scene.pick(scene.deliveries)
    other = scene.pick(channel for channel in scene.channels.values() if channel != event.channel)
    expected = Expected((Kind.PHANTOM,), other, event.client, event.message.id)
    return scene.put(at, replace(event, channel=other), instead=1), expected


def it_comes_to_who_has_left(scene: Scene) -> Planted:
    at, event = scene.pick(scene.deliveries)
    place = scene.next(at, event.client, event.channel)
    if place is None or not isinstance(scene.events[place], Left):
        raise NoPlace
    expected = Expected((Kind.PHANTOM,), event.channel, event.client, event.message.id)
    return scene.put(place + 1, event), expected


# ---------------------------------------------------------------- silent


def a_gap_is_not_told(scene: Scene) -> Planted:
    at, event = scene.pick(scene.gaps)
    place, before = scene.next(at, event.client, event.channel), _last(scene, at, event)
    if place is None or before is None or not isinstance(after := scene.events[place], Delivered):
        raise NoPlace
    if offset(after.message.id) == offset(before) + 1:
        raise NoPlace
    expected = Expected((Kind.SILENT, Kind.REORDERED), event.channel, event.client, after.message.id)
    return scene.put(at, instead=1), expected


def _last(scene: Scene, at: int, gap: Gap) -> str | None:
    """Where the client stood before it was told of *gap*."""
    heard = scene.heard(at, gap.client, gap.channel)
    begun = scene.begun(at, gap.client, gap.channel)
    if begun is None:
        return None
    since_then = heard[len(scene.heard(begun, gap.client, gap.channel)) :]
    start = scene.events[begun]
    return since_then[-1].id if since_then else getattr(start, "position", None)


def a_gap_names_a_position_too_old(scene: Scene) -> Planted:
    at, event = scene.pick((at, event) for at, event in scene.gaps if offset(event.position))
    place = scene.next(at, event.client, event.channel)
    if place is None or not isinstance(after := scene.events[place], Delivered):
        raise NoPlace
    expected = Expected((Kind.SILENT,), event.channel, event.client, after.message.id)
    return scene.put(at, replace(event, position=moved(event.position, -1)), instead=1), expected


def what_was_not_recovered_is_said_to_be(scene: Scene) -> Planted:
    at, event = scene.pick((at, event) for at, event in scene.answers if not event.recovered)
    _, asked = scene.asked(at, event.client, event.channel)
    if asked.since in (None, event.position):
        raise NoPlace
    expected = Expected((Kind.SILENT,), event.channel, event.client, event.position)
    return scene.put(at, replace(event, recovered=True), instead=1), expected


def a_resume_claims_a_position_beyond(scene: Scene) -> Planted:
    at, event = scene.pick(scene.resumes(least=0))
    beyond = moved(event.position, 1)
    expected = Expected((Kind.SILENT,), event.channel, event.client, beyond)
    return scene.put(at, replace(event, position=beyond), instead=1), expected


def the_server_skips_a_number(scene: Scene) -> Planted:
    """For everybody: nothing is known that was lost, and still nobody can know."""
    _, first, _, second = scene.pick(
        pair for pair in scene.pairs() if not scene.reset_after(0, pair[1].channel)
    )
    ids = {id: moved(id, 1) for id in scene.ids(first.channel) if offset(id) >= offset(second.message.id)}
    expected = Expected((Kind.SILENT,), first.channel, first.client, first.message.id)
    return [with_ids(event, ids) for event in scene.events], expected


SEEDS = (
    two_clients_get_other_data,
    two_clients_get_another_order,
    one_number_has_two_uids,
    one_number_is_given_to_two,
    a_client_follows_a_second_history,
    the_publisher_is_told_another_id,
    an_unknown_publish_is_in_two_places,
    nobody_published_it,
    it_was_refused,
    it_comes_before_it_was_sent,
    it_was_published_elsewhere,
    it_comes_to_who_has_left,
    a_gap_is_not_told,
    a_gap_names_a_position_too_old,
    what_was_not_recovered_is_said_to_be,
    a_resume_claims_a_position_beyond,
    the_server_skips_a_number,
)
