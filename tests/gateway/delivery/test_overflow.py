from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.overflow import POLICIES, OverflowPlan, QueuedItem, plan_overflow
from tests.gateway.delivery.queue_items import FakeSubscriber, message_id, reply_item, summary
from tests.gateway.virtual_time import no_deadline

UP, NEWEST, OLDEST, STRICT = (
    FakeSubscriber(name, policy) for name, policy in zip("unos", POLICIES, strict=True)
)
Short = tuple[object, ...]


@pytest.mark.parametrize(
    ("waiting", "left", "behind"),
    [
        pytest.param([], [], {}, id="nothing"),
        pytest.param([reply_item(1), reply_item(2)], [("pong", 1), ("pong", 2)], {}, id="replies stay"),
        pytest.param([STRICT.item(1), STRICT.item(2)], [("s", 1), ("s", 2)], {}, id="disconnect stays"),
        pytest.param(
            [UP.item(4, True, True), reply_item(1), UP.item(6)],
            [("pong", 1)],
            {"u": 3},
            id="catch_up goes, to come again from its first",
        ),
        pytest.param(
            [UP.item(4, True, False), UP.item(5)],
            [("gap", "u", 3)],
            {"u": 3},
            id="what no history brings is told, from where the replay begins",
        ),
        pytest.param(
            [UP.item(4), UP.item(5, False), UP.item(5, False), reply_item(1)],
            [("pong", 1), ("gap", "u", 3)],
            {"u": 3},
            id="told once, and not of what comes again",
        ),
        pytest.param([UP.gap_item(3)], [("gap", "u", 3)], {}, id="an older gap of catch_up stays"),
        pytest.param(
            [UP.gap_item(3), UP.item(4)], [("gap", "u", 3)], {"u": 3}, id="an older gap moves to the replay"
        ),
        pytest.param([NEWEST.item(4)], [("n", 4)], {}, id="a newest alone is no gap"),
        pytest.param(
            [NEWEST.item(4), NEWEST.item(5)], [("gap", "n", 4), ("n", 5)], {}, id="only the newest waits"
        ),
        pytest.param(
            [NEWEST.item(4, True, True, True)],
            [("gap", "n", 5), ("n", 6)],
            {},
            id="only the newest of a run",
        ),
        pytest.param(
            [NEWEST.item(4, True, False, False)],
            [("gap", "n", 4), ("n", None)],
            {},
            id="the gap is up to the last number",
        ),
        pytest.param(
            [NEWEST.item(4, False, True)],
            [("gap", "n", 3), ("n", 4)],
            {},
            id="the gap is up to the position before the run",
        ),
        pytest.param(
            [NEWEST.gap_item(3), NEWEST.item(4), reply_item(1)],
            [("gap", "n", 3), ("n", 4), ("pong", 1)],
            {},
            id="an older gap stays with its newest",
        ),
        pytest.param(
            [NEWEST.gap_item(3), NEWEST.item(4), reply_item(1), NEWEST.item(5)],
            [("pong", 1), ("gap", "n", 4), ("n", 5)],
            {},
            id="gaps do not pile up",
        ),
        pytest.param([NEWEST.gap_item(3)], [("gap", "n", 3)], {}, id="a gap whose newest is out stays"),
        pytest.param(
            [OLDEST.item(4), reply_item(1), OLDEST.item(5, True, True)],
            [("gap", "o", 6), ("pong", 1)],
            {},
            id="one gap for all that was dropped",
        ),
        pytest.param(
            [OLDEST.gap_item(3), reply_item(1)], [("gap", "o", 3), ("pong", 1)], {}, id="a gap stays a gap"
        ),
        pytest.param(
            [OLDEST.gap_item(3), reply_item(1), OLDEST.item(4)],
            [("gap", "o", 4), ("pong", 1)],
            {},
            id="an older gap grows",
        ),
        pytest.param(
            [OLDEST.item(4, False)], [("gap", "o", 3)], {}, id="what had no number leaves a gap as well"
        ),
    ],
)
def test_the_plan_without_any_room(
    waiting: list[QueuedItem], left: list[Short], behind: dict[str, int]
) -> None:
    result = plan_overflow(waiting, 0)
    assert summary(result.kept) == left
    assert {str(f)[0]: position for f, position in result.behind.items()} == {
        name: message_id(offset) for name, offset in behind.items()
    }


def test_drop_oldest_drops_no_more_than_needed() -> None:
    waiting = [OLDEST.item(n, size=1_000) for n in range(1, 9)]
    whole = sum(len(entry.data) for entry in waiting)
    assert summary(plan_overflow(waiting, whole).kept) == [("o", n) for n in range(1, 9)]
    assert summary(plan_overflow(waiting, whole - 1).kept) == [
        ("gap", "o", 1),
        *(("o", n) for n in range(2, 9)),
    ]
    assert summary(plan_overflow(waiting, whole - 1_100).kept) == [
        ("gap", "o", 2),
        *(("o", n) for n in range(3, 9)),
    ]


def test_drop_oldest_is_applied_last() -> None:
    waiting = [OLDEST.item(1, size=1_000), UP.item(1, size=1_000), NEWEST.item(1, True, True, size=500)]
    assert summary(plan_overflow(waiting, 2_000).kept) == [("o", 1), ("gap", "n", 1), ("n", 2)]


def test_dropped_messages_are_counted_by_policy() -> None:
    waiting = [
        UP.item(1, True, True),
        NEWEST.item(1, True),
        NEWEST.item(2, True, True, True),
        OLDEST.item(1, True, False, True),
        STRICT.item(1),
    ]
    assert plan_overflow(waiting, 0).dropped == {"catch_up": 2, "conflate": 3, "drop_oldest": 3}
    assert plan_overflow([STRICT.item(1)], 0).dropped == {}


def test_a_catch_up_without_a_position_is_a_gap() -> None:
    chunk = UP.batch(1, True, True)
    chunk.before = None
    result = plan_overflow([QueuedItem(UP, chunk.data, chunk)], 0)
    assert (summary(result.kept), result.behind) == ([("gap", "u", 2)], {})


# ---------------------------------------------------------------- whatever waits


@st.composite
def queues(draw: st.DrawFn) -> list[QueuedItem]:
    """Return what may wait: the runs of each follower in order, one behind the other."""
    followers = [
        FakeSubscriber(name, draw(st.sampled_from(POLICIES))) for name in "abcd"[: draw(st.integers(1, 4))]
    ]
    reached = dict.fromkeys(followers, 1)
    waiting: list[QueuedItem] = []
    for number in range(draw(st.integers(0, 12))):
        follower = draw(st.sampled_from([None, *followers]))
        if follower is None:
            waiting.append(reply_item(number + 1))
            continue
        numbered = draw(st.lists(st.sampled_from([True, True, False]), min_size=1, max_size=4))
        waiting.append(follower.item(reached[follower], *numbered, size=draw(st.sampled_from([0, 50, 400]))))
        reached[follower] += sum(numbered)
    return waiting


def size_of(entries: Sequence[QueuedItem]) -> int:
    return sum(len(entry.data) for entry in entries)


def of(entries: Sequence[QueuedItem], follower: object) -> list[QueuedItem]:
    return [entry for entry in entries if entry.subscriber is follower]


def check(waiting: list[QueuedItem], result: OverflowPlan, room: int) -> None:
    """Hold *result* against what each policy promises."""
    assert result.size == size_of(result.kept)
    assert of(result.kept, None) == of(waiting, None)
    for follower in {entry.subscriber for entry in waiting} - {None}:
        assert isinstance(follower, FakeSubscriber)
        CHECKS[follower.on_slow](of(waiting, follower), of(result.kept, follower), result, follower)
    droppable = [
        entry
        for entry in result.kept
        if entry.batch is not None
        and entry.subscriber is not None
        and entry.subscriber.on_slow == "drop_oldest"
    ]
    assert result.size <= room or not droppable


def check_catch_up(
    before: list[QueuedItem], after: list[QueuedItem], result: OverflowPlan, follower: FakeSubscriber
) -> None:
    chunks = [entry.batch for entry in before if entry.batch is not None]
    assert result.behind.get(follower) == (chunks[0].before if chunks else None)
    untold = len(chunks) < len(before) or any(chunk.unnumbered for chunk in chunks)
    assert [entry.batch for entry in after] == [None] * untold
    if untold and chunks:
        position = chunks[0].before
        assert summary(after) == [("gap", follower.name, position and position.offset)]


def check_conflate(
    before: list[QueuedItem], after: list[QueuedItem], _: OverflowPlan, follower: FakeSubscriber
) -> None:
    was, now = summary(before), summary(after)
    assert now[-1:] == was[-1:], "the newest waits"
    missing = [offset for kind, *_, offset in was[:-1] if kind == follower.name]
    if len(was) == 1:
        assert now == was
    else:
        numbers = [offset for offset in missing if offset is not None]
        first = next(entry.batch for entry in before if entry.batch is not None)
        upto = numbers[-1] if numbers else first.before and first.before.offset
        assert now[0] == ("gap", follower.name, upto)
        assert len(now) == 2


def check_drop_oldest(
    before: list[QueuedItem], after: list[QueuedItem], _: OverflowPlan, follower: FakeSubscriber
) -> None:
    chunks = [entry for entry in before if entry.batch is not None]
    kept = [entry for entry in after if entry.batch is not None]
    assert kept == chunks[len(chunks) - len(kept) :]
    dropped = chunks[: len(chunks) - len(kept)]
    marks = after[: len(after) - len(kept)]
    assert len(marks) == (1 if dropped or len(chunks) < len(before) else 0)
    if dropped and dropped[-1].batch is not None:
        last = dropped[-1].batch.last
        assert summary(marks) == [("gap", follower.name, last and last.offset)]


def check_disconnect(
    before: list[QueuedItem], after: list[QueuedItem], _: OverflowPlan, follower: FakeSubscriber
) -> None:
    assert before == after, follower


CHECKS = dict(
    zip(POLICIES, (check_catch_up, check_conflate, check_drop_oldest, check_disconnect), strict=True)
)


@no_deadline
@given(queues(), st.integers(0, 3_000))
def test_every_policy_does_what_it_promises(waiting: list[QueuedItem], room: int) -> None:
    result = plan_overflow(waiting, room)
    check(waiting, result, room)
    lost = sum(len(entry.batch.messages) for entry in waiting if entry.batch is not None)
    lost -= sum(len(entry.batch.messages) for entry in result.kept if entry.batch is not None)
    assert sum(result.dropped.values()) == lost


@no_deadline
@given(queues(), st.integers(0, 3_000), st.integers(0, 3_000))
def test_a_plan_can_be_applied_again_and_no_gap_is_lost(
    waiting: list[QueuedItem], room: int, less: int
) -> None:
    once = plan_overflow(waiting, room)
    twice = plan_overflow(once.kept, less)
    check(once.kept, twice, less)


@no_deadline
@given(queues(), st.integers(0, 3_000))
def test_kept_items_stay_in_order(waiting: list[QueuedItem], room: int) -> None:
    places = {id(entry.batch or entry): index for index, entry in enumerate(waiting)}
    kept = [
        places[key]
        for entry in plan_overflow(waiting, room).kept
        if (key := id(entry.batch or entry)) in places
    ]
    assert all(earlier < later for earlier, later in pairwise(kept))
