"""The books find every kind of fault, and none where there is none."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from loadtests.ledger import Ledger
from loadtests.track import Track
from loadtests.verdict import Verdict, judge

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
