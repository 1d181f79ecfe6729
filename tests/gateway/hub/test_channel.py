from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.grants import Grant
from gateway.broker.base import Retention
from gateway.delivery.encoding import EncodedBatch, EncodedMessage, memory_cost
from gateway.hub.channel import CACHED_BYTES, CACHED_MESSAGES, Channel, ChannelTotals
from gateway.hub.subscription import Subscription
from gateway.memory import MemoryBudget
from gateway.transport.memory import decode_data_frames
from protocol.codec import JSON, MSGPACK, Codec
from protocol.messages import Join, Leave, Member, Message
from protocol.payload import payload_of
from protocol.position import MessageId
from tests.gateway.delivery.queue_items import decode_all, message_id
from tests.gateway.node import OPEN, RULES
from tests.gateway.virtual_time import no_deadline, on_virtual_time, until_idle, virtual_loop

KEPT = RULES["hp"]
Offered = list[tuple[MessageId | None, list[Any]]]


class FakeSession:
    """A session, as far as a channel knows it: keeps what its outbox is offered, and how."""

    def __init__(self, connection: str = "c1", codec: Codec = JSON) -> None:
        self.connection = connection
        self.codec = codec
        self.outbox = self
        self.subscriptions: dict[str, Any] = {"a": None, "b": None}
        self.offered: Offered = []
        self.at_once = 0
        self.pushed: list[bytes] = []

    def offer(self, _: Any, batch: EncodedBatch) -> None:
        self.offered.append((batch.before, [encoded.message.data.value for encoded in batch.messages]))

    def offer_now(self, subscription: Any, batch: EncodedBatch) -> None:
        self.at_once += 1
        self.offer(subscription, batch)

    def enqueue(self, data: bytes) -> None:
        self.pushed.append(data)

    def received(self) -> list[Any]:
        return [value for _, values in self.offered for value in values]


def subscribe(
    channel: Channel, connection: str = "c1", *, codec: Codec = JSON, watches: bool = False
) -> tuple[FakeSession, Subscription]:
    session = FakeSession(connection, codec)
    subscription = Subscription(
        session,  # type: ignore[arg-type]
        channel,
        watches_presence=watches,
        grant=Grant.RULE,
    )
    channel.add(subscription)
    return session, subscription


def encoded_message(
    number: int | None, value: Any = None, *, uid_prefix: str = "u", time: int = 0
) -> EncodedMessage:
    value = number if value is None else value
    id = None if number is None else MessageId(number, f"{uid_prefix}{number}")
    return EncodedMessage(Message("a", payload_of(value), id, time=time))


def channel_at(position: int = 0) -> Channel:
    channel = Channel("a", KEPT)
    channel.start_at(message_id(position))
    return channel


def enqueue(channel: Channel, *numbers: int, uid_prefix: str = "u") -> None:
    for number in numbers:
        channel.collect(encoded_message(number, uid_prefix=uid_prefix))


def numbers(encoded: list[EncodedMessage] | None) -> list[int] | None:
    return None if encoded is None else [each.id.offset for each in encoded if each.id]


# ---------------------------------------------------------------- subscribers


def test_the_retention_of_a_channel_follows_from_its_rules() -> None:
    assert Channel("a", KEPT).retention == Retention(100, 300.0)
    assert Channel("a", OPEN).retention is None


def test_a_channel_is_idle_without_subscribers_and_holders() -> None:
    channel = channel_at()
    states = [channel.idle]
    channel.pending_subscriptions += 1
    states.append(channel.idle)
    _, subscription = subscribe(channel)
    channel.pending_subscriptions -= 1
    states.append(channel.idle)
    assert (len(channel), repr(channel)) == (1, "<Channel a at 0-u0 1 subscribers>")
    for _ in range(2):
        channel.remove(subscription)
        states.append(channel.idle)
    assert states == [True, False, False, True, True]
    assert repr(subscription) == "<Subscription a live>"


def test_a_subscriber_gets_what_is_delivered_between_add_and_remove() -> None:
    channel = channel_at()
    early, _ = subscribe(channel, "c1")
    enqueue(channel, 1)
    late, _ = subscribe(channel, "c2")
    enqueue(channel, 2)
    removed, leaving = subscribe(channel, "c3")
    enqueue(channel, 3)
    channel.remove(leaving)
    enqueue(channel, 4)
    channel.offer_pending()
    assert (early.received(), late.received(), removed.received()) == ([1, 2, 3, 4], [2, 3, 4], [3])


def test_pending_messages_are_offered_once_as_one_batch() -> None:
    channel = channel_at(6)
    session, _ = subscribe(channel)
    assert channel.collect(encoded_message(7)) is True
    assert channel.collect(encoded_message(8)) is False
    channel.offer_pending()
    channel.offer_pending()
    enqueue(channel, 9)
    channel.offer_pending()
    assert session.offered == [(message_id(6), [7, 8]), (message_id(8), [9])]


def test_each_codec_in_use_gets_its_own_batch_and_others_none() -> None:
    channel = channel_at()
    text, _ = subscribe(channel, "c1")
    _, removed = subscribe(channel, "c2", codec=MSGPACK)
    channel.remove(removed)
    encoded = encoded_message(1)
    channel.collect(encoded)
    channel.offer_pending()
    assert repr(encoded) == "<EncodedMessage a 1-u1 in ['fanway.v1.json']>"
    binary, _ = subscribe(channel, "c3", codec=MSGPACK)
    enqueue(channel, 2)
    channel.offer_pending()
    assert (text.received(), binary.received()) == ([1, 2], [2])


@pytest.mark.parametrize("one", ["one channel has something", "it follows one channel"])
def test_the_only_channel_of_a_turn_or_of_a_session_is_offered_to_write_at_once(one: str) -> None:
    channel = channel_at()
    session, _ = subscribe(channel)
    enqueue(channel, 1)
    channel.offer_pending()
    if one == "it follows one channel":
        del session.subscriptions["b"]
    enqueue(channel, 2)
    channel.offer_pending(only_channel=one == "one channel has something")
    assert (session.received(), session.at_once) == ([1, 2], 1)


@pytest.mark.parametrize("number", [1, None])
def test_a_subscription_behind_is_offered_nothing_and_notes_unnumbered_messages(number: int | None) -> None:
    channel = channel_at()
    session, subscription = subscribe(channel)
    subscription.behind = message_id(0)
    assert repr(subscription) == "<Subscription a behind at 0-u0>"
    channel.collect(encoded_message(number, "x"))
    channel.offer_pending()
    assert (session.received(), subscription.missed_unnumbered) == ([], number is None)


@pytest.mark.parametrize("number", [1, None])
def test_a_subscription_behind_is_offered_no_message_with_exclusions_either(number: int | None) -> None:
    channel = channel_at()
    session, subscription = subscribe(channel)
    subscription.behind = message_id(0)
    channel.offer_excluding(encoded_message(number, "x"), frozenset({"other"}))
    assert (session.received(), subscription.missed_unnumbered) == ([], number is None)


# ---------------------------------------------------------------- messages for all but some


def test_an_excluded_connection_gets_every_message_but_that_one() -> None:
    channel = channel_at()
    session, _ = subscribe(channel, "c1")
    excluded, _ = subscribe(channel, "c2")
    _, removed = subscribe(channel, "c3", codec=MSGPACK)
    channel.remove(removed)
    enqueue(channel, 1)
    channel.offer_excluding(encoded_message(2), frozenset({"c2"}))
    enqueue(channel, 3)
    channel.offer_pending()
    assert session.offered == [(message_id(0), [1]), (message_id(1), [2]), (message_id(2), [3])]
    assert excluded.offered == [(message_id(0), [1]), (message_id(2), [3])]


def test_an_unnumbered_message_with_exclusions_does_not_move_the_position() -> None:
    channel = channel_at()
    session, _ = subscribe(channel)
    channel.offer_excluding(encoded_message(None, "x"), frozenset({"c9"}))
    enqueue(channel, 1)
    channel.offer_pending()
    assert session.offered == [(message_id(0), ["x"]), (message_id(0), [1])]


# ---------------------------------------------------------------- joins and leaves


def test_joins_and_leaves_are_pushed_to_watchers_but_not_to_the_member() -> None:
    channel = channel_at()
    watching, subscription = subscribe(channel, "c0", watches=True)
    subscription.member = Member("c1", "ann")  # listed under the id of an earlier connection
    binary, _ = subscribe(channel, "c2", watches=True, codec=MSGPACK)
    not_watching, _ = subscribe(channel, "c3")
    joined, left = Join("a", Member("c1", "ann")), Leave("a", Member("c9", "ben"))
    for push in (joined, left):
        channel.collect_presence(push)
    assert channel.presence is not None
    assert (watching.pushed, binary.pushed) == ([], []), "what comes together is pushed together"
    channel.presence.push_waiting()
    assert decode_all(watching.pushed) == [left]
    (together,) = binary.pushed
    frames = [frame for _, frame in decode_data_frames(together)]
    assert [MSGPACK.decode_server_message(frame) for frame in frames] == [joined, left]
    assert not_watching.pushed == []


def test_a_join_is_pushed_after_messages_delivered_before_it() -> None:
    channel = channel_at()
    session, _ = subscribe(channel, watches=True)
    enqueue(channel, 1)
    channel.collect_presence(Join("a", Member("c9", "ben")))
    assert session.received() == [1]


def test_a_pending_member_list_collects_joins_and_leaves() -> None:
    class Waiting:
        def __init__(self) -> None:
            self.changes: list[Join | Leave] = []

    channel, waiting = channel_at(), Waiting()
    joined = Join("a", Member("c9", "ben"))
    channel.collect_presence(joined)
    channel.member_lists[waiting] = None
    channel.collect_presence(joined)
    assert waiting.changes == [joined]


# ---------------------------------------------------------------- what it still has


def test_the_position_is_that_of_the_broker_unless_a_message_arrived_meanwhile() -> None:
    channel = Channel("a", KEPT)
    enqueue(channel, 8)
    channel.start_at(message_id(7))
    assert (channel.position_before_cache, channel.position) == (MessageId(7, ""), message_id(8))
    assert channel.messages_after(message_id(7)) is None, "it does not know that this is what came before"
    assert numbers(channel.messages_after(message_id(8))) == []
    without = Channel("a", OPEN)
    without.start_at(None)
    assert (without.position_before_cache, without.position) == (None, None)
    assert without.messages_after(message_id(0)) is None


def test_messages_after_a_position_are_complete_or_none() -> None:
    channel = channel_at(10)
    enqueue(channel, 11, 12, 13)
    assert [numbers(channel.messages_after(message_id(n))) for n in range(9, 15)] == [
        None,
        [11, 12, 13],
        [12, 13],
        [13],
        [],
        None,
    ]
    assert channel.messages_after(MessageId(11, "other")) is None
    assert channel.messages_after(MessageId(13, "other")) is None
    assert channel.messages_after(MessageId(10, "other")) is None
    assert numbers(channel.messages_after(message_id(10), 2)) == [11, 12]


def test_pending_messages_are_cached_already() -> None:
    channel = channel_at()
    subscribe(channel)
    enqueue(channel, 1, 2)
    assert numbers(channel.messages_after(message_id(0))) == [1, 2]


def test_only_the_newest_messages_are_cached() -> None:
    channel = channel_at()
    session, _ = subscribe(channel)
    count = 3 * CACHED_MESSAGES
    enqueue(channel, *range(1, count + 1))
    channel.offer_pending()
    assert session.offered == [(message_id(0), list(range(1, count + 1)))], "all pending messages"
    assert channel.position_before_cache == message_id(count - CACHED_MESSAGES)
    assert channel.messages_after(message_id(count - CACHED_MESSAGES - 1)) is None
    assert numbers(channel.messages_after(message_id(count - CACHED_MESSAGES))) == list(
        range(count - CACHED_MESSAGES + 1, count + 1)
    )


def test_the_cache_is_bounded_in_bytes() -> None:
    channel = channel_at()
    for number in range(1, 6):
        channel.collect(encoded_message(number, "x" * (CACHED_BYTES // 6)))
    assert channel.position_before_cache == message_id(3)
    channel.collect(encoded_message(6, "x" * 2 * CACHED_BYTES))
    assert (channel.position_before_cache, numbers(channel.messages_after(message_id(5)))) == (
        message_id(5),
        [6],
    ), "the newest stays, whatever its size"
    enqueue(channel, 7)
    assert channel.position_before_cache == message_id(6)


def caching_channels(memory: int, *names: str) -> tuple[list[Channel], MemoryBudget]:
    """Return channels that may keep *memory* bytes of newest messages together."""
    totals = ChannelTotals()
    totals.caching.budget.limit = memory
    channels = [Channel(name, KEPT, totals) for name in names]
    for channel in channels:
        channel.start_at(message_id(0))
    return channels, totals.caching.budget


def test_beyond_the_memory_of_all_the_channel_not_used_for_longest_loses_its_newest_messages() -> None:
    one = memory_cost(encoded_message(1).message, 1)
    (first, second, third), budget = caching_channels(4 * one, *"abc")
    enqueue(first, 1, 2)
    enqueue(second, 1)
    enqueue(third, 1)
    assert (budget.used, budget.freed) == (4 * one, 0)
    generation = first.history_generation
    enqueue(third, 2)
    assert (budget.used, budget.freed) == (3 * one, 1)
    assert (first.position, first.position_before_cache) == (message_id(2), message_id(2))
    assert first.messages_after(message_id(1)) is None, "its clients resume from the broker"
    assert first.history_generation is generation, "pages that were read of it stay valid"
    assert first.messages_after(message_id(2)) == []
    assert numbers(second.messages_after(message_id(0))) == [1]
    enqueue(first, 3)
    assert numbers(first.messages_after(message_id(2))) == [3]
    first.messages_after(message_id(2))
    enqueue(third, 3)
    assert budget.used <= 4 * one
    for channel in (first, second, third):
        channel.discard_state()
    assert (budget.used, len(first.totals.caching)) == (0, 0)


def test_a_message_larger_than_the_memory_of_all_is_not_kept() -> None:
    (channel,), budget = caching_channels(1_000, "a")
    session, _ = subscribe(channel)
    enqueue(channel, 1, 2)
    channel.offer_pending()
    assert session.offered == [(message_id(0), [1, 2])], "offered all the same"
    assert (budget.used, channel.position_before_cache) == (0, message_id(2))


def test_frames_in_a_second_codec_are_counted() -> None:
    (channel,), budget = caching_channels(1_000_000, "a")
    subscribe(channel)
    channel.collect(encoded_message(1, "x" * 1_000))
    before = budget.used
    subscribe(channel, codec=MSGPACK)
    assert budget.used - before == 2 * len(payload_of("x" * 1_000))
    channel.collect(encoded_message(2, "x" * 1_000))
    assert budget.used == 2 * memory_cost(encoded_message(2, "x" * 1_000).message, 2)
    channel.discard_state()
    assert budget.used == 0


def test_after_the_numbering_restarts_no_earlier_position_is_served() -> None:
    channel = channel_at()
    enqueue(channel, 1, 2, 3)
    enqueue(channel, 1, 2, uid_prefix="v")
    assert (channel.position_before_cache, channel.position, channel.numbering_breaks) == (
        MessageId(0, ""),
        MessageId(2, "v2"),
        1,
    )
    for old in (message_id(0), message_id(1), message_id(2), message_id(3)):
        assert channel.messages_after(old) is None
    assert numbers(channel.messages_after(MessageId(1, "v1"))) == [2]
    channel.clear_history()
    enqueue(channel, 3, uid_prefix="v")
    assert numbers(channel.messages_after(MessageId(2, "v2"))) == [3]


def test_the_position_before_a_restarted_numbering_is_dropped_like_any_other() -> None:
    channel = channel_at(100)
    enqueue(channel, *range(1, CACHED_MESSAGES + 2), uid_prefix="v")
    assert channel.position_before_cache == MessageId(1, "v1")
    assert numbers(channel.messages_after(MessageId(1, "v1"))) == list(range(2, CACHED_MESSAGES + 2))


def test_a_reset_offers_pending_messages_and_moves_the_position() -> None:
    channel = channel_at()
    session, _ = subscribe(channel)
    enqueue(channel, 1)
    channel.reset(message_id(9))
    assert session.received() == [1]
    assert (
        channel.position_before_cache,
        channel.position,
        channel.messages_after(message_id(1)),
        channel.messages_after(message_id(9)),
    ) == (message_id(9), message_id(9), None, [])
    enqueue(channel, 10)
    channel.offer_pending()
    assert session.offered[-1] == (message_id(9), [10])
    channel.reset(None)
    assert (channel.position, channel.messages_after(message_id(9))) == (None, None)


def test_cleared_messages_are_not_served_and_positions_stay_valid() -> None:
    channel = channel_at()
    session, _ = subscribe(channel)
    enqueue(channel, 1, 2)
    channel.clear_history()
    assert session.received() == [1, 2]
    assert (channel.messages_after(message_id(1)), channel.messages_after(message_id(2))) == (None, [])
    assert channel.newest(1, not_before=-1.0) is None
    enqueue(channel, 3)
    assert numbers(channel.messages_after(message_id(2))) == [3]


def test_the_newest_messages_are_returned_unless_too_few_or_too_old() -> None:
    channel = channel_at()
    for number in range(1, 6):
        channel.collect(encoded_message(number, time=number * 1_000))
    assert numbers(channel.newest(3, not_before=2.9)) == [3, 4, 5]
    assert channel.newest(3, not_before=3.0) is None
    assert numbers(channel.newest(5, not_before=0.5)) == [1, 2, 3, 4, 5]
    assert channel.newest(6, not_before=0.0) is None
    assert channel.newest(0, not_before=0.0) is None


@no_deadline
@given(
    st.lists(
        st.one_of(
            st.just(("enqueue",)),
            st.just(("enqueue",)),
            st.tuples(st.just("enqueue many"), st.integers(2, 150)),
            st.just(("unnumbered",)),
            st.just(("exclude",)),
            st.just(("offer_pending",)),
            st.just(("clear_history",)),
            st.just(("restart",)),
            st.just(("reset",)),
        ),
        max_size=25,
    )
)
def test_after_any_steps_messages_after_a_position_are_complete_or_none(
    steps: list[tuple[Any, ...]],
) -> None:
    model = ChannelModel()
    for step in steps:
        model.do(*step)
        model.check()
    model.channel.offer_pending()
    assert model.session.received() == model.received


class ChannelModel:
    """A channel, the messages of its current numbering, and the positions of earlier numberings."""

    def __init__(self) -> None:
        self.channel = channel_at()
        self.session, _ = subscribe(self.channel)
        self.history = [message_id(0)]
        self.old: list[MessageId] = []
        self.received: list[Any] = []

    def do(self, step: str, count: int = 1) -> None:
        if step == "restart" and not self.history[-1].offset:
            return  # restarting an empty history loses nothing
        if step in ("restart", "reset"):
            self.restart_numbering(reset=step == "reset")
        elif step in ("enqueue", "enqueue many", "exclude"):
            for _ in range(count):
                self.enqueue(exclude=step == "exclude")
        elif step == "unnumbered":
            self.channel.collect(encoded_message(None, "x"))
            self.received.append("x")
        else:
            getattr(self.channel, step)()

    def restart_numbering(self, *, reset: bool) -> None:
        self.old += self.history
        start = MessageId(self.history[-1].offset + 5 if reset else 0, f"begun{len(self.old)}")
        self.history = [start]
        if reset:
            self.channel.reset(start)

    def enqueue(self, *, exclude: bool) -> None:
        id = MessageId(self.history[-1].offset + 1, f"message{len(self.received)}")
        self.history.append(id)
        self.received.append(str(id))
        encoded = EncodedMessage(Message("a", payload_of(str(id)), id))
        if exclude:
            self.channel.offer_excluding(encoded, frozenset({"c9"}))
        else:
            self.channel.collect(encoded)

    def check(self) -> None:
        for index, position in enumerate(self.history):
            after = self.channel.messages_after(position)
            assert after is None or [each.id for each in after] == self.history[index + 1 :]
        if len(self.history) > 1:
            assert self.channel.messages_after(self.history[-1]) == []
            assert all(self.channel.messages_after(position) is None for position in self.old)


# ---------------------------------------------------------------- waiting for an offset


@on_virtual_time
async def test_a_resume_ahead_of_the_channel_waits_until_it_has_arrived() -> None:
    channel = channel_at(5)
    waiting = virtual_loop().create_task(channel.wait_for_offset(7))
    await channel.wait_for_offset(5)
    await until_idle()
    for number in (6, 7):
        assert not waiting.done()
        enqueue(channel, number)
        channel.offer_pending()
        await until_idle()
    await waiting


@on_virtual_time
async def test_a_cancelled_waiter_does_not_disturb_the_others() -> None:
    channel = channel_at()
    tasks = [virtual_loop().create_task(channel.wait_for_offset(n)) for n in (1, 1, 2)]
    await until_idle()
    tasks[0].cancel()
    await until_idle()
    channel.offer_excluding(encoded_message(1), frozenset({"c9"}))
    await until_idle()
    assert [task.done() for task in tasks] == [True, True, False]
    enqueue(channel, 2)
    channel.offer_pending()
    await until_idle()
    assert tasks[2].done()


@pytest.mark.parametrize("what", ["reset", "reset to nothing", "restart"])
@on_virtual_time
async def test_waiting_for_an_offset_ends_at_a_break_or_after_the_timeout(what: str) -> None:
    channel = channel_at(5)
    waiting = virtual_loop().create_task(channel.wait_for_offset(50))
    await until_idle()
    if what == "restart":
        enqueue(channel, 1, uid_prefix="v")
        channel.offer_pending()
    else:
        channel.reset(message_id(6) if what == "reset" else None)
    await until_idle()
    assert waiting.done()
