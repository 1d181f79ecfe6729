"""Whether a history keeps the guarantees: per channel one order for all, every message once, no silent loss.

Pure: events in, a verdict out. It imports nothing of the gateway but the reading of message ids. What it
knows for certain comes from three sources:

- Numbers: ids have consecutive numbers, so a missing number without a notice is a violation.
- Other clients: one number is one message for all of them.
- Time: a publish that was acknowledged before another one was attempted precedes it. A client that received
  the second without the first has lost the first, even where the server numbers as if it had never existed.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator

from protocol.position import MessageId
from tests.chaos.history import Event, PublishResult
from tests.chaos.history_index import Delivery, HistoryIndex, Publish, Segment
from tests.chaos.message_ids import PUBLISHER, MessageIds
from tests.chaos.verdict import Verdict, Violation, ViolationKind


def check(events: Iterable[Event]) -> Verdict:
    """Return the violations in *events*, which are in the order of observation.

    Clients that are subscribed at the end must have everything: end the history when they had time to get it.
    """
    index = HistoryIndex(events)
    ids = MessageIds(index)
    violations = {violation for rule in _RULES for violation in rule(index, ids)}
    return Verdict(
        tuple(sorted(violations)),
        tuple(index.notices),
        Counter(publish.result.value for publish in index.publishes.values()),
        sum(len(segment.deliveries) for view in index.views.values() for segment in view.segments),
    )


# ---------------------------------------------------------------- what one client received


def _received_twice(index: HistoryIndex, _: MessageIds) -> Iterator[Violation]:
    """No id and no publish arrives twice, whatever notice came between."""
    for view in index.views.values():
        received: dict[MessageId | str, Delivery] = {}
        for delivery in (delivery for segment in view.segments for delivery in segment.deliveries):
            for key in (delivery.id, delivery.publish):
                if key is not None and (earlier := received.setdefault(key, delivery)) is not delivery:
                    named = tuple(dict.fromkeys((str(earlier), str(delivery))))
                    reason = f"{delivery.publish} after {earlier.publish}"
                    yield Violation(ViolationKind.DUPLICATED, view.channel, view.client, named, reason)


def _number_decreased(index: HistoryIndex, ids: MessageIds) -> Iterator[Violation]:
    """Numbers only increase within a segment; `_received_twice` handles repeated ones."""
    for segment in index.segments():
        newest, known = segment.start, {segment.start}
        for delivery in segment.deliveries:
            if newest is None or delivery.id is None or delivery.id in known:
                continue
            known.add(delivery.id)
            earliest = ids.eras(segment.channel, delivery.id).earliest
            if delivery.id.offset > newest.offset:
                newest = delivery.id
            elif earliest > ids.eras(segment.channel, newest).latest:
                reason = "numbers began anew without a notice"
                yield _violation(segment, ViolationKind.SILENT, newest, delivery.id, reason=reason)
                newest = delivery.id
            else:
                reason = "the second one arrived after the first one"
                yield _violation(segment, ViolationKind.REORDERED, newest, delivery.id, reason=reason)


def _number_missing(index: HistoryIndex, ids: MessageIds) -> Iterator[Violation]:
    """Within a segment no number is left out."""
    for segment in index.segments():
        for before, after in _jumps(segment):
            reason = "no notice of what is missing between them"
            yield _violation(segment, ViolationKind.SILENT, before, after, reason=reason)
            earliest = ids.eras(segment.channel, before).earliest
            latest = ids.eras(segment.channel, after).latest
            for offset in range(before.offset + 1, after.offset):
                for id in ids.by_offset(segment.channel).get(offset, ()):
                    if ids.eras(segment.channel, id).overlaps(earliest, latest):
                        reason = f"left out between {before} and {after}"
                        yield _violation(segment, ViolationKind.LOST, id, reason=reason)


def _false_recovery_claim(index: HistoryIndex, _: MessageIds) -> Iterator[Violation]:
    """Where `recovered: true` names a position, everything up to it has arrived, and nothing after it."""
    for segment in index.segments():
        for claim in segment.claims:
            if claim.newest_received != claim.position:
                reason = f"recovered up to the second one, but the newest received is {claim.newest_received}"
                yield _violation(segment, ViolationKind.SILENT, claim.since, claim.position, reason=reason)


def _not_published(index: HistoryIndex, _: MessageIds) -> Iterator[Violation]:
    """Clients receive only what was published in the channel, and only while they are subscribed."""
    for view in index.views.values():
        wrong = [(delivery, "received without a subscription") for delivery in view.unrequested]
        for delivery in (delivery for segment in view.segments for delivery in segment.deliveries):
            publish = index.publish_in(view.channel, delivery.publish)
            if publish is None or publish.attempted > delivery.at:
                wrong.append((delivery, f"no publisher has sent {delivery.publish!r} to this channel"))
            elif publish.result is PublishResult.FAILED:
                wrong.append((delivery, f"{delivery.publish} was rejected"))
        for delivery, reason in wrong:
            yield Violation(ViolationKind.PHANTOM, view.channel, view.client, (str(delivery),), reason)


# ---------------------------------------------------------------- what all received, compared


def _ids_and_publishes_disagree(_: HistoryIndex, ids: MessageIds) -> Iterator[Violation]:
    """One id is one publish and one publish is one id, for its publisher and for every client."""
    publishes: dict[tuple[str, MessageId], dict[str, str]] = defaultdict(dict)
    assigned: dict[tuple[str, str], dict[MessageId, str]] = defaultdict(dict)
    for seen in ids.observations:
        if seen.publish:
            publishes[seen.channel, seen.id].setdefault(seen.publish, seen.observer)
            assigned[seen.channel, seen.publish].setdefault(seen.id, seen.observer)
    for (channel, id), versions in publishes.items():
        if len(versions) > 1:
            yield _disagreement(channel, [id], versions.values(), f"{id} is {_versions(versions)}")
    for (channel, publish), found in assigned.items():
        if len(found) > 1:
            named = {str(id): observer for id, observer in found.items()}
            yield _disagreement(channel, found, found.values(), f"{publish} is {_versions(named)}")


def _number_assigned_twice(_: HistoryIndex, ids: MessageIds) -> Iterator[Violation]:
    """A number is assigned again only after a reset: one message per number and era."""
    for channel in ids.channels():
        for found in ids.by_offset(channel).values():
            taken: set[int] = set()
            # The ids with the fewest possible eras take theirs first.
            for id in sorted(found, key=lambda id: ids.eras(channel, id)[::-1]):
                eras = ids.eras(channel, id)
                free = next((era for era in range(eras.earliest, eras.latest + 1) if era not in taken), None)
                if free is None:
                    observers = [seen.observer for seen in found.values()]
                    yield _disagreement(channel, found, observers, f"{id} has the number of another message")
                else:
                    taken.add(free)


def _predecessors_differ(index: HistoryIndex, ids: MessageIds) -> Iterator[Violation]:
    """A message follows the same message at all clients that got no notice of a break before it."""
    predecessors: dict[tuple[str, MessageId], dict[MessageId, list[Segment]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for segment in index.segments():
        before = segment.start
        for delivery in segment.deliveries:
            id = delivery.id
            if before is not None and id is not None and before.offset and id.follows(before):
                predecessors[segment.channel, id][before].append(segment)
            before = id
    for (channel, id), befores in predecessors.items():
        newest = max(befores, key=lambda before: ids.eras(channel, before)[::-1])
        for before, segments in befores.items():
            for segment in segments if before != newest else ():
                reason = f"for other clients it follows {newest}"
                yield _violation(segment, ViolationKind.SILENT, before, id, reason=reason)


def _acknowledged_out_of_order(index: HistoryIndex, _: MessageIds) -> Iterator[Violation]:
    """What was acknowledged before another publish was attempted has the lower number, within one era."""
    for (channel, _era), publishes in _acknowledged_by_era(index).items():
        by_resolved = deque(sorted(publishes, key=lambda publish: publish.resolved))
        highest = MessageId(0, "")
        for publish, id in publishes.items():
            while by_resolved and by_resolved[0].resolved < publish.attempted:
                highest = max(highest, publishes[by_resolved.popleft()], key=lambda id: id.offset)
            if id.offset < highest.offset:
                named = (str(highest), str(id))
                reason = "the first one was acknowledged before the second one was attempted"
                yield Violation(ViolationKind.REORDERED, channel, "", named, reason)


# ---------------------------------------------------------------- what should have arrived


def _acknowledged_missing(index: HistoryIndex, _: MessageIds) -> Iterator[Violation]:
    """Acknowledged messages arrive at clients that received anything later, or are subscribed at the end."""
    acknowledged: dict[str, list[Publish]] = defaultdict(list)
    for publish in index.publishes.values():
        if publish.result is PublishResult.OK:
            acknowledged[publish.channel].append(publish)
    for segment in index.segments():
        received = {delivery.publish for delivery in segment.deliveries}
        later = [found.attempted for name in received if (found := index.publish_in(segment.channel, name))]
        until = max([segment.complete_until, *later])
        for publish in acknowledged[segment.channel]:
            in_segment = segment.began < publish.attempted and publish.resolved < until
            if in_segment and publish.name not in received:
                reason = f"{publish.name} did not arrive"
                yield _violation(segment, ViolationKind.LOST, publish.id or publish.name, reason=reason)


def _behind_at_the_end(index: HistoryIndex, ids: MessageIds) -> Iterator[Violation]:
    """Clients that are subscribed at the end have every id that others observed since the last reset."""
    for segment in index.segments():
        if segment.complete_until < math.inf:
            continue
        newest, era = segment.newest, index.resets_before(segment.channel, math.inf)
        for offset, found in ids.by_offset(segment.channel).items():
            for id in found:
                certain = ids.eras(segment.channel, id) == (era, era)
                if newest is not None and offset > newest.offset and certain:
                    reason = f"the client is still at {newest}"
                    yield _violation(segment, ViolationKind.LOST, id, reason=reason)


_RULES = (
    _received_twice,
    _number_decreased,
    _number_missing,
    _false_recovery_claim,
    _not_published,
    _ids_and_publishes_disagree,
    _number_assigned_twice,
    _predecessors_differ,
    _acknowledged_out_of_order,
    _acknowledged_missing,
    _behind_at_the_end,
)


# ---------------------------------------------------------------- helpers of several rules


def _violation(segment: Segment, kind: ViolationKind, *ids: MessageId | str, reason: str) -> Violation:
    return Violation(kind, segment.channel, segment.client, tuple(map(str, ids)), reason)


def _disagreement(channel: str, ids: Iterable[MessageId], observers: Iterable[str], reason: str) -> Violation:
    clients = sorted(set(observers) - {PUBLISHER})
    return Violation(
        ViolationKind.DIVERGING, channel, ", ".join(clients), tuple(sorted(map(str, ids))), reason
    )


def _versions(found: dict[str, str]) -> str:
    return ", ".join(f"{version} for {observer}" for version, observer in found.items())


def _jumps(segment: Segment) -> Iterator[tuple[MessageId, MessageId]]:
    """Neighbours in *segment*, sorted by number, between which a number is missing."""
    before = segment.start
    ids = (delivery.id for delivery in segment.deliveries if delivery.id is not None)
    for id in sorted(ids, key=lambda id: id.offset):
        if before is not None and id.offset > before.offset + 1:
            yield before, id
        before = id if before is None or id.offset > before.offset else before


def _acknowledged_by_era(index: HistoryIndex) -> dict[tuple[str, int], dict[Publish, MessageId]]:
    """Publishes with ids by the era in which they were attempted and acknowledged, in order of attempt."""
    found: dict[tuple[str, int], dict[Publish, MessageId]] = defaultdict(dict)
    for publish in index.publishes.values():
        era = index.resets_before(publish.channel, publish.attempted)
        if publish.id is not None and era == index.resets_before(publish.channel, publish.resolved):
            found[publish.channel, era][publish] = publish.id
    return found
