"""The contract suite of all brokers: histories and positions."""

import pytest

from gateway.broker.base import Broker, HistoryCleared, Publication, Retention
from protocol.payload import payload_of
from protocol.position import MessageId
from tests.broker.recording_node import KEPT, Later, RecordingNode, publish, values


class HistoryContract:
    """A position is recovered where no message after it is missing, and nowhere else."""

    async def test_history_stores_the_newest_messages(self, broker: Broker) -> None:
        ids = await publish(broker, "a", *range(8))
        page = await broker.read("a")
        assert values(page.messages) == [3, 4, 5, 6, 7]
        assert (page.position, page.recovered) == (ids[-1], True)

    @pytest.mark.parametrize("limit", [None, 0, 1, 3, 5, 9])
    @pytest.mark.parametrize("reverse", [False, True])
    async def test_any_part_of_a_history_can_be_read(
        self, broker: Broker, limit: int | None, reverse: bool
    ) -> None:
        ids = await publish(broker, "a", *range(8))
        for index, since in [(None, None), *enumerate(ids)]:
            page = await broker.read("a", since=since, limit=limit, reverse=reverse)
            if index is not None and index < 2:
                assert (page.messages, page.recovered) == ((), False), "trimmed: there is a hole behind it"
                continue
            expected = list(range(3, 8))
            if index is not None:
                expected = [n for n in expected if (n < index if reverse else n > index)]
            if reverse:
                expected.reverse()
            assert values(page.messages) == expected[:limit], index
            assert page.recovered
            assert page.position == ids[-1]

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_a_read_returns_at_most_size_bytes(self, broker: Broker, reverse: bool) -> None:
        many = Retention(400, 60.0)
        receipts = [
            await broker.publish(Publication("a", payload_of(str(number) * 1_000), many))
            for number in range(1, 10)
        ]
        ids = [receipt.id for receipt in receipts]
        for size, expected in ((1, 1), (2_900, 2), (4_700, 4), (100_000, 8)):
            page = await broker.read("a", since=ids[-1 if reverse else 0], size=size, reverse=reverse)
            assert len(page.messages) == expected, "the nearest one, however large; then what fits"
            nearest = ids[-2::-1] if reverse else ids[1:]
            assert [message.message for message in page.messages] == nearest[:expected]
            assert (page.position, page.recovered) == (ids[-1], True)

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_a_long_read_returns_every_message_once(self, broker: Broker, reverse: bool) -> None:
        for number in range(350):
            await broker.publish(Publication("a", payload_of(number), Retention(400, 60.0)))
        for limit in (99, 100, 101, 200, 349, 350, 351, None):
            page = await broker.read("a", limit=limit, size=1_000_000, reverse=reverse)
            expected = list(range(350))
            assert values(page.messages) == (expected[::-1] if reverse else expected)[:limit]

    async def test_a_position_of_another_history_is_not_recovered(self, broker: Broker) -> None:
        ids = await publish(broker, "a", 1, 2, 3)
        foreign = await publish(broker, "b", 1, 2, 3, 4, 5)
        unknown = [
            MessageId(2, "f" * 12),
            MessageId(4, ids[-1].uid),
            MessageId(999, "x"),
            MessageId(0, "x"),
            MessageId(2, ids[0].uid),
            *foreign,
        ]
        for since in unknown:
            for reverse in (False, True):
                page = await broker.read("a", since=since, reverse=reverse)
                assert (list(page.messages), page.position, page.recovered) == ([], ids[-1], False)

    async def test_an_empty_history_has_a_position_to_resume_from(self, broker: Broker) -> None:
        page = await broker.read("a")
        beginning = page.position
        assert (list(page.messages), beginning.offset, page.recovered) == ([], 0, True)
        assert (await broker.read("a")).position == beginning
        assert await broker.subscribe("a", KEPT) == beginning
        nothing = await broker.read("a", since=beginning)
        assert (list(nothing.messages), nothing.position, nothing.recovered) == ([], beginning, True)
        ids = await publish(broker, "a", 1, 2)
        everything = await broker.read("a", since=beginning)
        assert (values(everything.messages), everything.position) == ([1, 2], ids[-1])
        assert everything.recovered
        await publish(broker, "a", 3, 4, 5)
        assert (await broker.read("a", since=beginning)).recovered
        await publish(broker, "a", 6)
        assert not (await broker.read("a", since=beginning)).recovered

    async def test_the_initial_position_of_one_channel_is_not_valid_in_another(self, broker: Broker) -> None:
        beginning = (await broker.read("a")).position
        assert not (await broker.read("b", since=beginning)).recovered
        await publish(broker, "b", 1)
        assert not (await broker.read("b", since=beginning)).recovered

    async def test_clear_deletes_the_messages_and_keeps_the_numbering(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", KEPT)
        ids = await publish(broker, "a", 1, 2, 3)
        await broker.clear("a")
        assert (await node.received(4))[3] == HistoryCleared("a")
        page = await broker.read("a")
        assert (list(page.messages), page.position) == ([], ids[-1])
        assert (await broker.read("a", since=ids[-1])).recovered, "nothing came after it"
        assert not (await broker.read("a", since=ids[0])).recovered
        (next_id,) = await publish(broker, "a", 4)
        assert next_id.follows(ids[-1])
        assert values((await broker.read("a", since=ids[-1])).messages) == [4]

    async def test_clearing_an_empty_history_changes_nothing(self, broker: Broker) -> None:
        beginning = (await broker.read("a")).position
        await broker.clear("a")
        assert (await broker.read("a", since=beginning)).recovered

    async def test_another_broker_recovers_no_position_of_this_one(
        self, broker: Broker, other: Broker
    ) -> None:
        beginning = (await broker.read("a")).position
        ids = await publish(broker, "a", 1, 2)
        for _ in range(3):
            for since in (beginning, *ids):
                assert not (await other.read("a", since=since)).recovered
            await publish(other, "a", 1)

    # ------------------------------------------------------------ time

    async def test_messages_expire_after_their_ttl(self, broker: Broker, later: Later) -> None:
        first = await publish(broker, "a", 1, 2)
        await later(KEPT.ttl / 2)
        second = await publish(broker, "a", 3)
        await later(KEPT.ttl / 2)
        page = await broker.read("a")
        assert (values(page.messages), page.position) == ([3], second[-1])
        assert not (await broker.read("a", since=first[0])).recovered
        assert values((await broker.read("a", since=first[1])).messages) == [3]
        await later(KEPT.ttl / 2)
        page = await broker.read("a", since=second[-1])
        assert (list(page.messages), page.position, page.recovered) == ([], second[-1], True)
        (next_id,) = await publish(broker, "a", 4)
        assert next_id.follows(second[-1])

    async def test_no_position_is_recovered_after_the_history_was_forgotten(
        self, broker: Broker, later: Later, meta_ttl: float
    ) -> None:
        beginning = (await broker.read("a")).position
        ids = await publish(broker, "a", 1, 2)
        await later(KEPT.ttl + meta_ttl)
        for _ in range(4):
            for since in (beginning, *ids):
                page = await broker.read("a", since=since)
                assert (list(page.messages), page.recovered) == ([], False)
            await publish(broker, "a", 1)

    async def test_a_position_outlives_the_last_message_by_meta_ttl(
        self, broker: Broker, later: Later, meta_ttl: float
    ) -> None:
        (last,) = await publish(broker, "a", 1, retention=Retention(5, 10 * meta_ttl))
        await later(10 * meta_ttl)
        assert (await broker.read("a", since=last)).recovered
        await later(meta_ttl * 0.9)
        assert (await broker.read("a", since=last)).recovered
