"""The books find every kind of fault, and none where there is none."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.ledger import Ledger
from loadtests.track import Track
from loadtests.verdict import COLUMNS, Verdict, judge

CHANNEL = "c"


def id_of(offset: int | None, history: str = "u") -> str | None:
    """Return the id at *offset*, with a uid that no other offset and no other history has."""
    return None if offset is None else f"{offset}-{history}{offset}"


@dataclass(frozen=True)
class Sent:
    """A message: whose, which, whether its publisher was answered, and where it was stored, if at all."""

    by: str
    number: int
    answered: bool
    offset: int | None


@dataclass
class World:
    """A channel, who publishes to it, and who follows it: two processes, or one."""

    publishers: Ledger
    subscribers: Ledger
    messages: list[Sent] = field(default_factory=list)
    tracks: dict[Track, list[Sent]] = field(default_factory=dict)
    """What each subscriber is to get, in this order."""

    def publish(self, by: str, *, stored: bool = True, answered: bool = True) -> None:
        number = self.publishers.attempt(CHANNEL, by)
        offset = sum(message.offset is not None for message in self.messages) + 1 if stored else None
        if answered and stored:
            self.publishers.acknowledge(CHANNEL, by, number, id_of(offset))
        message = Sent(by, number, answered and stored, offset)
        self.messages.append(message)
        for deliveries in self.tracks.values():
            if stored:
                deliveries.append(message)

    def join(self) -> None:
        top = sum(message.offset is not None for message in self.messages)
        self.tracks[self.subscribers.follow(f"s{len(self.tracks)}", CHANNEL, id_of(top))] = []

    def deliver(self) -> Verdict:
        for track, deliveries in self.tracks.items():
            for message in deliveries:
                self.subscribers.arrived(track, message.by, message.number, id_of(message.offset))
        ledgers = {id(ledger): ledger for ledger in (self.publishers, self.subscribers)}
        return judge([ledger.statement() for ledger in ledgers.values()])


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Publishers whose every outcome is known or not, and subscribers who come at any time."""
    ledger = Ledger()
    world = World(ledger, draw(st.sampled_from([ledger, Ledger()])))
    world.join()
    world.publish("b0")
    for act in draw(
        st.lists(st.sampled_from(["publish", "publish", "lose answer", "fail", "join"]), max_size=30)
    ):
        if act == "join":
            world.join()
        else:
            by = draw(st.sampled_from(["b0", "b1", "b2"]))
            world.publish(by, stored=act != "fail", answered=act != "lose answer")
    world.publish("b1")
    world.publish("b2")
    return world


def faults(verdict: Verdict) -> dict[str, int]:
    return {**verdict.faults, **({"late": verdict.totals["late"]} if verdict.totals["late"] else {})}


def somebody(world: World, data: st.DataObject) -> tuple[Track, list[Sent]]:
    return data.draw(st.sampled_from([item for item in world.tracks.items() if len(item[1]) > 1]))


@given(worlds())
def test_where_everything_arrives_nothing_is_found(world: World) -> None:
    verdict = world.deliver()
    assert not faults(verdict)
    assert not verdict.findings
    totals = verdict.totals
    assert totals["delivered"] == sum(map(len, world.tracks.values()))
    assert totals["published"] == sum(message.answered for message in world.messages)
    assert totals["unknown"] == sum(not message.answered for message in world.messages)
    assert totals["subscribers"] == len(world.tracks)


@given(worlds(), st.data())
def test_one_message_that_is_lost_is_found_and_named(world: World, data: st.DataObject) -> None:
    track, deliveries = somebody(world, data)
    lost = data.draw(st.sampled_from([message for message in deliveries if message.answered]))
    deliveries.remove(lost)
    verdict = world.deliver()
    assert faults(verdict) == {"lost": 1}
    (finding,) = verdict.findings
    assert (finding.kind, finding.who, finding.channel, finding.count) == ("lost", track.who, CHANNEL, 1)
    assert finding.which == (f"{lost.by}#{lost.number} at {lost.offset}",)


@given(worlds(), st.data())
def test_the_loss_of_what_nobody_was_promised_is_found_by_the_hole_that_it_leaves(
    world: World, data: st.DataObject
) -> None:
    world.publish("b0", answered=False)
    unanswered = world.messages[-1]
    world.publish("b1")
    _, deliveries = somebody(world, data)
    deliveries.remove(unanswered)
    assert faults(world.deliver()) == {"lost": 1}


@given(worlds(), st.data())
def test_one_message_that_comes_twice_is_found(world: World, data: st.DataObject) -> None:
    _, deliveries = somebody(world, data)
    first = data.draw(st.integers(0, len(deliveries) - 1))
    again = data.draw(st.integers(first + 1, len(deliveries)))
    deliveries.insert(again, deliveries[first])
    assert faults(world.deliver()) == {"duplicated": 1}


@given(worlds(), st.data())
def test_one_message_that_comes_after_later_ones_is_found(world: World, data: st.DataObject) -> None:
    _, deliveries = somebody(world, data)
    early = data.draw(st.integers(0, len(deliveries) - 2))
    late = data.draw(st.integers(early + 1, len(deliveries) - 1))
    deliveries.insert(late, deliveries.pop(early))
    assert faults(world.deliver()) == {"reordered": 1}


@given(worlds(), st.data())
def test_one_message_that_is_late_is_found(world: World, data: st.DataObject) -> None:
    track, deliveries = somebody(world, data)
    late = data.draw(st.sampled_from(deliveries))
    track.was_late(late.by, late.number, late.offset)
    verdict = world.deliver()
    assert faults(verdict) == {"late": 1}
    (finding,) = verdict.findings
    assert finding.which == (f"{late.by}#{late.number} at {late.offset}",)


@given(worlds(), st.data())
def test_a_message_under_an_id_that_was_passed_already_is_found(world: World, data: st.DataObject) -> None:
    _, deliveries = somebody(world, data)
    at = data.draw(st.integers(1, len(deliveries) - 1))
    wrong = deliveries[at]
    deliveries[at] = Sent(wrong.by, wrong.number, wrong.answered, deliveries[at - 1].offset)
    assert faults(world.deliver())["misnumbered"] >= 1


@given(worlds(), st.data())
def test_what_the_server_tells_of_is_no_loss(world: World, data: st.DataObject) -> None:
    track, deliveries = somebody(world, data)
    begin = data.draw(st.integers(0, len(deliveries) - 1))
    end = data.draw(st.integers(begin + 1, len(deliveries)))
    for message in deliveries[:begin]:
        world.subscribers.arrived(track, message.by, message.number, id_of(message.offset))
    world.subscribers.was_told(track, id_of(deliveries[end - 1].offset))
    del deliveries[:end]
    verdict = world.deliver()
    assert not faults(verdict)
    assert verdict.totals["told"] == end - begin


@given(worlds())
def test_a_server_that_acknowledges_what_it_never_numbers_is_found_out(world: World) -> None:
    """As if it answered 200 and forgot: no hole among the offsets, but one among the publisher's numbers."""
    world.publish("b0")
    number = world.publishers.attempt(CHANNEL, "b0")
    world.publishers.acknowledge(CHANNEL, "b0", number, None)
    world.publish("b0")
    assert faults(world.deliver()) == {"lost": len(world.tracks)}


def test_publishers_and_subscribers_have_to_agree_on_the_order() -> None:
    ledger = Ledger()
    track = ledger.follow("anna", CHANNEL, id_of(0))
    ledger.attempt(CHANNEL, "b")
    ledger.arrived(track, "b", 1, id_of(1))
    ledger.acknowledge(CHANNEL, "b", 1, id_of(2))
    verdict = judge([ledger.statement()])
    assert [finding.who for finding in verdict.findings if finding.kind == "misnumbered"] == ["(publishers)"]


def test_a_message_that_nobody_sent_is_found_out() -> None:
    ledger = Ledger()
    track = ledger.follow("anna", CHANNEL, id_of(0))
    ledger.attempt(CHANNEL, "b")
    ledger.arrived(track, "b", 1, id_of(1))
    ledger.arrived(track, "b", 2, id_of(2))
    assert judge([ledger.statement()]).faults == {"misnumbered": 1}


def test_who_left_without_a_fault_is_counted_and_forgotten() -> None:
    ledger = Ledger()
    for number in (1, 2, 3):
        track = ledger.follow("anna", CHANNEL, id_of(number - 1))
        ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), id_of(number))
        ledger.arrived(track, "b", number, id_of(number))
        ledger.leave(track)
    assert ledger.statement()["tracks"] == []
    assert judge([ledger.statement()]).totals["subscribers"] == 3


def test_it_knows_what_is_still_to_come() -> None:
    ledger = Ledger()
    track = ledger.follow("anna", CHANNEL, id_of(0))
    ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), id_of(1))
    assert ledger.outstanding() == 1
    ledger.arrived(track, "b", 1, id_of(1))
    assert ledger.outstanding() == 0


# ---------------------------------------------------------------- channels without history number nothing

Alter = Callable[[list[int]], list[int]]
UNNUMBERED: dict[str, tuple[Alter, dict[str, int]]] = {
    "nothing": (lambda numbers: numbers, {}),
    "the first lost": (lambda numbers: numbers[1:], {"lost": 1}),
    "one lost": (lambda numbers: numbers[:2] + numbers[3:], {"lost": 1}),
    "the last lost": (lambda numbers: numbers[:-1], {"lost": 1}),
    "all lost": (lambda _: [], {"lost": 5}),
    "one twice": (lambda numbers: [*numbers, numbers[0]], {"duplicated": 1}),
    "two swapped": (lambda numbers: [numbers[1], numbers[0], *numbers[2:]], {"reordered": 1}),
}


@pytest.mark.parametrize(("alter", "found"), UNNUMBERED.values(), ids=UNNUMBERED)
def test_without_offsets_the_publishers_own_numbers_tell(alter: Alter, found: dict[str, int]) -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), None)
    track = ledger.follow("anna", CHANNEL, None)
    for _ in range(5):
        ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), None)
    for number in alter([4, 5, 6, 7, 8]):
        ledger.arrived(track, "b", number, None)
    assert judge([ledger.statement()]).faults == found


def test_without_offsets_what_other_processes_sent_before_is_not_expected() -> None:
    publishers, subscribers = Ledger(), Ledger()
    for _ in range(5):
        publishers.acknowledge(CHANNEL, "b", publishers.attempt(CHANNEL, "b"), None)
    track = subscribers.follow("anna", CHANNEL, None)
    assert not judge([publishers.statement(), subscribers.statement()]).faults
    subscribers.arrived(track, "b", 4, None)
    assert judge([publishers.statement(), subscribers.statement()]).faults == {"lost": 1}


def test_the_sums_of_a_verdict_are_those_of_its_channels() -> None:
    ledger = Ledger()
    for channel in ("c", "d"):
        ledger.acknowledge(channel, "b", ledger.attempt(channel, "b"), id_of(1))
    verdict = judge([ledger.statement()])
    assert set(verdict.channels) == {"c", "d"}
    assert verdict.totals == {**dict.fromkeys(COLUMNS, 0), "published": 2}


# ---------------------------------------------------------------- a history that is lost


def restarted(*, told: bool) -> dict[str, int]:
    """Return the faults where a server lost its history after two messages, and two more were published."""
    ledger = Ledger()
    track = ledger.follow("anna", CHANNEL, id_of(0))
    for offset in (1, 2):
        ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), id_of(offset))
    ledger.arrived(track, "b", 1, id_of(1))
    if told:
        ledger.was_told(track, id_of(0, "new"))
    for number, offset in ((3, 1), (4, 2)):
        ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), id_of(offset, "new"))
        ledger.arrived(track, "b", number, id_of(offset, "new"))
    assert not ledger.outstanding()
    return dict(judge([ledger.statement()]).faults)


def test_a_server_that_lost_its_history_and_says_so_has_lost_nothing_silently() -> None:
    assert not restarted(told=True)


def test_a_server_that_lost_its_history_and_says_nothing_is_found_out() -> None:
    assert restarted(told=False)["misnumbered"] == 1


def test_who_never_hears_of_a_new_history_has_lost_it() -> None:
    ledger = Ledger()
    ledger.follow("anna", CHANNEL, id_of(0))
    ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), id_of(1))
    ledger.acknowledge(CHANNEL, "b", ledger.attempt(CHANNEL, "b"), id_of(1, "new"))
    assert judge([ledger.statement()]).faults == {"lost": 2}


def test_what_is_published_again_into_a_new_history_is_no_duplicate() -> None:
    """Its key was lost with the history, and its publisher had no answer."""
    ledger = Ledger()
    track = ledger.follow("anna", CHANNEL, id_of(0))
    number = ledger.attempt(CHANNEL, "b")
    ledger.arrived(track, "b", number, id_of(1))
    ledger.was_told(track, id_of(0, "new"))
    ledger.acknowledge(CHANNEL, "b", number, id_of(1, "new"))
    ledger.arrived(track, "b", number, id_of(1, "new"))
    assert not judge([ledger.statement()]).faults
