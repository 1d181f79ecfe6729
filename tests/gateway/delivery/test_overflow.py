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
    ("queue", "left", "behind"),
    [
        pytest.param([], [], {}, id="nothing"),
        pytest.param([reply_item(1), reply_item(2)], [("pong", 1), ("pong", 2)], {}, id="replies are kept"),
        pytest.param(
            [STRICT.item(1), STRICT.item(2)], [("s", 1), ("s", 2)], {}, id="disconnect drops nothing"
        ),
        pytest.param(
            [UP.item(4, True, True), reply_item(1), UP.item(6)],
            [("pong", 1)],
            {"u": 3},
            id="catch_up drops everything, to be replayed from its first message",
        ),
        pytest.param(
            [UP.item(4, True, False), UP.item(5)],
            [("gap", "u", 3)],
            {"u": 3},
            id="unnumbered messages leave a gap at the position where the replay begins",
        ),
        pytest.param(
            [UP.item(4), UP.item(5, False), UP.item(5, False), reply_item(1)],
            [("pong", 1), ("gap", "u", 3)],
            {"u": 3},
            id="one gap, and none for replayed messages",
        ),
        pytest.param([UP.gap_item(3)], [("gap", "u", 3)], {}, id="an older gap of catch_up stays"),
        pytest.param(
            [UP.gap_item(3), UP.item(4)], [("gap", "u", 3)], {"u": 3}, id="an older gap moves to the replay"
        ),
        pytest.param([NEWEST.item(4)], [("n", 4)], {}, id="a single newest message leaves no gap"),
        pytest.param(
            [NEWEST.item(4), NEWEST.item(5)],
            [("gap", "n", 4), ("n", 5)],
            {},
            id="conflate keeps only the newest",
        ),
        pytest.param(
            [NEWEST.item(4, True, True, True)],
            [("gap", "n", 5), ("n", 6)],
            {},
            id="conflate keeps only the newest of a batch",
        ),
        pytest.param(
            [NEWEST.item(4, True, False, False)],
            [("gap", "n", 4), ("n", None)],
            {},
            id="the gap is up to the last id",
        ),
        pytest.param(
            [NEWEST.item(4, False, True)],
            [("gap", "n", 3), ("n", 4)],
            {},
            id="the gap is up to the position before the batch",
        ),
        pytest.param(
            [NEWEST.gap_item(3), NEWEST.item(4), reply_item(1)],
            [("gap", "n", 3), ("n", 4), ("pong", 1)],
            {},
            id="an older gap stays before its newest",
        ),
        pytest.param(
            [NEWEST.gap_item(3), NEWEST.item(4), reply_item(1), NEWEST.item(5)],
            [("pong", 1), ("gap", "n", 4), ("n", 5)],
            {},
            id="a newer gap replaces an older one",
        ),
        pytest.param([NEWEST.gap_item(3)], [("gap", "n", 3)], {}, id="a gap whose newest was written stays"),
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
            id="an older gap is extended",
        ),
        pytest.param(
            [OLDEST.item(4, False)], [("gap", "o", 3)], {}, id="an unnumbered message leaves a gap as well"
        ),
    ],
)
def test_the_plan_without_any_room(
    queue: list[QueuedItem], left: list[Short], behind: dict[str, int]
) -> None:
    plan = plan_overflow(queue, 0)
    assert summary(plan.kept) == left
    assert {str(f)[0]: position for f, position in plan.behind.items()} == {
        name: message_id(offset) for name, offset in behind.items()
    }


def test_drop_oldest_drops_no_more_than_needed() -> None:
    queue = [OLDEST.item(n, size=1_000) for n in range(1, 9)]
    whole = sum(len(item.data) for item in queue)
    assert summary(plan_overflow(queue, whole).kept) == [("o", n) for n in range(1, 9)]
    assert summary(plan_overflow(queue, whole - 1).kept) == [
        ("gap", "o", 1),
        *(("o", n) for n in range(2, 9)),
    ]
    assert summary(plan_overflow(queue, whole - 1_100).kept) == [
        ("gap", "o", 2),
        *(("o", n) for n in range(3, 9)),
    ]


def test_drop_oldest_is_applied_last() -> None:
    queue = [OLDEST.item(1, size=1_000), UP.item(1, size=1_000), NEWEST.item(1, True, True, size=500)]
    assert summary(plan_overflow(queue, 2_000).kept) == [("o", 1), ("gap", "n", 1), ("n", 2)]


def test_dropped_messages_are_counted_by_policy() -> None:
    queue = [
        UP.item(1, True, True),
        NEWEST.item(1, True),
        NEWEST.item(2, True, True, True),
        OLDEST.item(1, True, False, True),
        STRICT.item(1),
    ]
    assert plan_overflow(queue, 0).dropped == {"catch_up": 2, "conflate": 3, "drop_oldest": 3}
    assert plan_overflow([STRICT.item(1)], 0).dropped == {}


def test_a_catch_up_without_a_position_is_a_gap() -> None:
    batch = UP.batch(1, True, True)
    batch.before = None
    plan = plan_overflow([QueuedItem(UP, batch.data, batch)], 0)
    assert (summary(plan.kept), plan.behind) == ([("gap", "u", 2)], {})


# ---------------------------------------------------------------- whatever waits


@st.composite
def queues(draw: st.DrawFn) -> list[QueuedItem]:
    """Return a queue: the batches of each subscriber in order, one after the other."""
    subscribers = [
        FakeSubscriber(name, draw(st.sampled_from(POLICIES))) for name in "abcd"[: draw(st.integers(1, 4))]
    ]
    reached = dict.fromkeys(subscribers, 1)
    queue: list[QueuedItem] = []
    for number in range(draw(st.integers(0, 12))):
        subscriber = draw(st.sampled_from([None, *subscribers]))
        if subscriber is None:
            queue.append(reply_item(number + 1))
            continue
        numbered = draw(st.lists(st.sampled_from([True, True, False]), min_size=1, max_size=4))
        queue.append(
            subscriber.item(reached[subscriber], *numbered, size=draw(st.sampled_from([0, 50, 400])))
        )
        reached[subscriber] += sum(numbered)
    return queue


def size_of(items: Sequence[QueuedItem]) -> int:
    return sum(len(item.data) for item in items)


def of(items: Sequence[QueuedItem], subscriber: object) -> list[QueuedItem]:
    return [item for item in items if item.subscriber is subscriber]


def check(queue: list[QueuedItem], plan: OverflowPlan, room: int) -> None:
    """Check *plan* against what each policy promises."""
    assert plan.size == size_of(plan.kept)
    assert of(plan.kept, None) == of(queue, None)
    for subscriber in {item.subscriber for item in queue} - {None}:
        assert isinstance(subscriber, FakeSubscriber)
        CHECKS[subscriber.on_slow](of(queue, subscriber), of(plan.kept, subscriber), plan, subscriber)
    droppable = [
        item
        for item in plan.kept
        if item.batch is not None and item.subscriber is not None and item.subscriber.on_slow == "drop_oldest"
    ]
    assert plan.size <= room or not droppable


def check_catch_up(
    before: list[QueuedItem], after: list[QueuedItem], plan: OverflowPlan, subscriber: FakeSubscriber
) -> None:
    batches = [item.batch for item in before if item.batch is not None]
    assert plan.behind.get(subscriber) == (batches[0].before if batches else None)
    needs_gap = len(batches) < len(before) or any(batch.unnumbered for batch in batches)
    assert [item.batch for item in after] == [None] * needs_gap
    if needs_gap and batches:
        position = batches[0].before
        assert summary(after) == [("gap", subscriber.name, position and position.offset)]


def check_conflate(
    before: list[QueuedItem], after: list[QueuedItem], _: OverflowPlan, subscriber: FakeSubscriber
) -> None:
    was, now = summary(before), summary(after)
    assert now[-1:] == was[-1:], "the newest waits"
    missing = [offset for kind, *_, offset in was[:-1] if kind == subscriber.name]
    if len(was) == 1:
        assert now == was
    else:
        numbers = [offset for offset in missing if offset is not None]
        first = next(item.batch for item in before if item.batch is not None)
        upto = numbers[-1] if numbers else first.before and first.before.offset
        assert now[0] == ("gap", subscriber.name, upto)
        assert len(now) == 2


def check_drop_oldest(
    before: list[QueuedItem], after: list[QueuedItem], _: OverflowPlan, subscriber: FakeSubscriber
) -> None:
    batches = [item for item in before if item.batch is not None]
    kept = [item for item in after if item.batch is not None]
    assert kept == batches[len(batches) - len(kept) :]
    dropped = batches[: len(batches) - len(kept)]
    gaps = after[: len(after) - len(kept)]
    assert len(gaps) == (1 if dropped or len(batches) < len(before) else 0)
    if dropped and dropped[-1].batch is not None:
        last = dropped[-1].batch.last
        assert summary(gaps) == [("gap", subscriber.name, last and last.offset)]


def check_disconnect(
    before: list[QueuedItem], after: list[QueuedItem], _: OverflowPlan, subscriber: FakeSubscriber
) -> None:
    assert before == after, subscriber


CHECKS = dict(
    zip(POLICIES, (check_catch_up, check_conflate, check_drop_oldest, check_disconnect), strict=True)
)


@no_deadline
@given(queues(), st.integers(0, 3_000))
def test_every_policy_does_what_it_promises(queue: list[QueuedItem], room: int) -> None:
    plan = plan_overflow(queue, room)
    check(queue, plan, room)
    lost = sum(len(item.batch.messages) for item in queue if item.batch is not None)
    lost -= sum(len(item.batch.messages) for item in plan.kept if item.batch is not None)
    assert sum(plan.dropped.values()) == lost


@no_deadline
@given(queues(), st.integers(0, 3_000), st.integers(0, 3_000))
def test_a_plan_can_be_applied_again_and_no_gap_is_lost(
    queue: list[QueuedItem], room: int, less: int
) -> None:
    once = plan_overflow(queue, room)
    twice = plan_overflow(once.kept, less)
    check(once.kept, twice, less)


@no_deadline
@given(queues(), st.integers(0, 3_000))
def test_kept_items_stay_in_order(queue: list[QueuedItem], room: int) -> None:
    places = {id(item.batch or item): index for index, item in enumerate(queue)}
    kept = [
        places[key] for item in plan_overflow(queue, room).kept if (key := id(item.batch or item)) in places
    ]
    assert all(earlier < later for earlier, later in pairwise(kept))
