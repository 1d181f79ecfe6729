"""Whether a history keeps the promise: per channel one order for all, every message once, no silent loss.

Pure: events in, a verdict out. What it knows for sure it takes from three sources. Numbers: ids count without
a hole, so that a hole of which nobody was told is a break. Other clients: one number is one message for all.
Time: a publish that was acknowledged before another was attempted precedes it, so that who heard the second
without the first has lost it, even where the server numbers as if it had never been.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator

from protocol.position import MessageId
from tests.chaos.history import Event, Result
from tests.chaos.ids import PUBLISHER, Ids
from tests.chaos.runs import Account, Hearing, Publish, Run
from tests.chaos.verdict import Fault, Kind, Verdict


def check(events: Iterable[Event]) -> Verdict:
    """Return what is wrong with *events*, in the order in which they were seen.

    Clients that are subscribed at the end must have everything: end the history when they had time to get it.
    """
    account = Account(events)
    ids = Ids(account)
    faults = {fault for rule in _RULES for fault in rule(account, ids)}
    return Verdict(
        tuple(sorted(faults)),
        tuple(account.told),
        Counter(publish.result.value for publish in account.publishes.values()),
        sum(len(run.heard) for view in account.views.values() for run in view.runs),
    )


# ---------------------------------------------------------------- what one client got


def _repeated(account: Account, _: Ids) -> Iterator[Fault]:
    """Nothing comes twice, neither an id nor a publish under another id, whatever was told between."""
    for view in account.views.values():
        heard: dict[MessageId | str, Hearing] = {}
        for hearing in (hearing for run in view.runs for hearing in run.heard):
            for known_by in (hearing.id, hearing.publish):
                if known_by is not None and (earlier := heard.setdefault(known_by, hearing)) is not hearing:
                    named = tuple(dict.fromkeys((str(earlier), str(hearing))))
                    why = f"{hearing.publish} after {earlier.publish}"
                    yield Fault(Kind.DUPLICATED, view.channel, view.client, named, why)


def _backwards(account: Account, ids: Ids) -> Iterator[Fault]:
    """Numbers only grow within a run; what comes again is another rule's business."""
    for run in account.runs():
        newest, known = run.start, {run.start}
        for hearing in run.heard:
            if newest is None or hearing.id is None or hearing.id in known:
                continue
            known.add(hearing.id)
            if hearing.id.offset > newest.offset:
                newest = hearing.id
            elif ids.span(run.channel, hearing.id).earliest > ids.span(run.channel, newest).latest:
                yield _fault(run, Kind.SILENT, newest, hearing.id, why="nothing told that numbers begin anew")
                newest = hearing.id
            else:
                yield _fault(run, Kind.REORDERED, newest, hearing.id, why="the second came after the first")


def _holes(account: Account, ids: Ids) -> Iterator[Fault]:
    """Numbers leave nothing out within a run."""
    for run in account.runs():
        for before, after in _jumps(run):
            yield _fault(run, Kind.SILENT, before, after, why="nothing told of what is between")
            earliest, latest = ids.span(run.channel, before).earliest, ids.span(run.channel, after).latest
            for offset in range(before.offset + 1, after.offset):
                for id in ids.by_offset(run.channel).get(offset, ()):
                    if ids.span(run.channel, id).overlaps(earliest, latest):
                        yield _fault(run, Kind.LOST, id, why=f"left out between {before} and {after}")


def _false_claims(account: Account, _: Ids) -> Iterator[Fault]:
    """Where `recovered: true` names a position, everything up to it has come and nothing beyond it."""
    for run in account.runs():
        for claim in run.claims:
            if claim.heard != claim.position:
                why = f"recovered, it is said, up to the second, but heard up to {claim.heard}"
                yield _fault(run, Kind.SILENT, claim.since, claim.position, why=why)


def _unpublished(account: Account, _: Ids) -> Iterator[Fault]:
    """Only what somebody published there comes, and only to those who follow."""
    for view in account.views.values():
        wrong = [(hearing, "came without a subscription") for hearing in view.unasked]
        for hearing in (hearing for run in view.runs for hearing in run.heard):
            publish = account.in_channel(view.channel, hearing.publish)
            if publish is None or publish.attempted > hearing.at:
                wrong.append((hearing, f"nobody has published {hearing.publish!r} here"))
            elif publish.result is Result.FAILED:
                wrong.append((hearing, f"{hearing.publish} was refused"))
        for hearing, why in wrong:
            yield Fault(Kind.PHANTOM, view.channel, view.client, (str(hearing),), why)


# ---------------------------------------------------------------- what all got, compared


def _disagreements(_: Account, ids: Ids) -> Iterator[Fault]:
    """An id is one publish, and a publish is one id: for its publisher, and for everybody who hears it."""
    publishes: dict[tuple[str, MessageId], dict[str, str]] = defaultdict(dict)
    places: dict[tuple[str, str], dict[MessageId, str]] = defaultdict(dict)
    for seen in ids.sightings:
        if seen.publish:
            publishes[seen.channel, seen.id].setdefault(seen.publish, seen.who)
            places[seen.channel, seen.publish].setdefault(seen.id, seen.who)
    for (channel, id), versions in publishes.items():
        if len(versions) > 1:
            yield _disagreement(channel, [id], versions.values(), f"{id} is {_versions(versions)}")
    for (channel, publish), found in places.items():
        if len(found) > 1:
            named = {str(id): who for id, who in found.items()}
            yield _disagreement(channel, found, found.values(), f"{publish} is {_versions(named)}")


def _second_histories(_: Account, ids: Ids) -> Iterator[Fault]:
    """A number is given to another message only after a reset: one message for each stretch between two."""
    for channel in ids.channels():
        for found in ids.by_offset(channel).values():
            taken: set[int] = set()
            # Who has the least choice chooses first.
            for id in sorted(found, key=lambda id: ids.span(channel, id)[::-1]):
                span = ids.span(channel, id)
                free = next((n for n in range(span.earliest, span.latest + 1) if n not in taken), None)
                if free is None:
                    who = [seen.who for seen in found.values()]
                    yield _disagreement(channel, found, who, f"{id} has the number of another message")
                else:
                    taken.add(free)


def _broken_lines(account: Account, ids: Ids) -> Iterator[Fault]:
    """A message follows the same one for everybody who is told of no break before it."""
    lines: dict[tuple[str, MessageId], dict[MessageId, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in account.runs():
        before = run.start
        for hearing in run.heard:
            if before is not None and hearing.id is not None and before.offset and hearing.id.follows(before):
                lines[run.channel, hearing.id][before].append(run)
            before = hearing.id
    for (channel, id), befores in lines.items():
        newest = max(befores, key=lambda before: ids.span(channel, before)[::-1])
        for before, runs in befores.items():
            for run in runs if before != newest else ():
                yield _fault(run, Kind.SILENT, before, id, why=f"for others it follows {newest}")


def _acknowledged_backwards(account: Account, _: Ids) -> Iterator[Fault]:
    """What was acknowledged before another was attempted has the lower number, where no reset is between."""
    for (channel, _era), publishes in _acknowledged_by_era(account).items():
        answered = deque(sorted(publishes, key=lambda publish: publish.resolved))
        highest = MessageId(0, "")
        for publish, id in publishes.items():
            while answered and answered[0].resolved < publish.attempted:
                highest = max(highest, publishes[answered.popleft()], key=lambda id: id.offset)
            if id.offset < highest.offset:
                named = (str(highest), str(id))
                yield Fault(
                    Kind.REORDERED, channel, "", named, "the first was acknowledged before the second"
                )


# ---------------------------------------------------------------- what should have come


def _owed(account: Account, _: Ids) -> Iterator[Fault]:
    """What was acknowledged comes to those who were there and heard of anything later, or are there now."""
    acknowledged: dict[str, list[Publish]] = defaultdict(list)
    for publish in account.publishes.values():
        if publish.result is Result.OK:
            acknowledged[publish.channel].append(publish)
    for run in account.runs():
        heard = {hearing.publish for hearing in run.heard}
        later = [found.attempted for name in heard if (found := account.in_channel(run.channel, name))]
        until = max([run.complete, *later])
        for publish in acknowledged[run.channel]:
            if run.began < publish.attempted and publish.resolved < until and publish.name not in heard:
                yield _fault(run, Kind.LOST, publish.id or publish.name, why=f"{publish.name} never came")


def _ends(account: Account, ids: Ids) -> Iterator[Fault]:
    """Who is there at the end has every id that others have seen since the last reset."""
    for run in account.runs():
        if run.complete < math.inf:
            continue
        last, now = run.last, account.resets_before(run.channel, math.inf)
        for offset, found in ids.by_offset(run.channel).items():
            for id in found:
                if last is not None and offset > last.offset and ids.span(run.channel, id) == (now, now):
                    yield _fault(run, Kind.LOST, id, why=f"the client is still at {last}")


_RULES = (
    _repeated,
    _backwards,
    _holes,
    _false_claims,
    _unpublished,
    _disagreements,
    _second_histories,
    _broken_lines,
    _acknowledged_backwards,
    _owed,
    _ends,
)


# ---------------------------------------------------------------- how it is said


def _fault(run: Run, kind: Kind, *ids: MessageId | str, why: str) -> Fault:
    return Fault(kind, run.channel, run.client, tuple(map(str, ids)), why)


def _disagreement(channel: str, ids: Iterable[MessageId], who: Iterable[str], why: str) -> Fault:
    clients = sorted(set(who) - {PUBLISHER})
    return Fault(Kind.DIVERGING, channel, ", ".join(clients), tuple(sorted(map(str, ids))), why)


def _versions(found: dict[str, str]) -> str:
    return ", ".join(f"{version} for {who}" for version, who in found.items())


def _jumps(run: Run) -> Iterator[tuple[MessageId, MessageId]]:
    """Neighbours in *run*, sorted, between which a number is missing."""
    before = run.start
    for id in sorted((each.id for each in run.heard if each.id is not None), key=lambda id: id.offset):
        if before is not None and id.offset > before.offset + 1:
            yield before, id
        before = id if before is None or id.offset > before.offset else before


def _acknowledged_by_era(account: Account) -> dict[tuple[str, int], dict[Publish, MessageId]]:
    """Publishes with ids that were attempted and acknowledged between the same two resets, as attempted."""
    found: dict[tuple[str, int], dict[Publish, MessageId]] = defaultdict(dict)
    for publish in account.publishes.values():
        era = account.resets_before(publish.channel, publish.attempted)
        if publish.id is not None and era == account.resets_before(publish.channel, publish.resolved):
            found[publish.channel, era][publish] = publish.id
    return found
