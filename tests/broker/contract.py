"""The contract suite of all brokers: a broker's tests subclass `BrokerContract` and provide its fixtures."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from gateway.broker.base import (
    AckLevel,
    Broker,
    ChannelRecord,
    ConnectionRecord,
    Delivery,
    NodeRecord,
    PresenceCount,
    Receipt,
    Retention,
    UserCommand,
)
from gateway.errors import BrokerUnavailable, KeyReused
from protocol.messages import Join, Leave, Member, Message, Sender
from protocol.payload import payload_of
from protocol.position import MessageId
from tests.broker.history_contract import HistoryContract
from tests.broker.recording_node import KEPT, Later, RecordingNode, publication, publish, values

LONG_GRACE, SHORT_GRACE = 60.0, 0.05
"""Seconds: no test lasts as long as the one, and each waits for the end of the other."""

ANN, BOB = Member("c1", "ann", {"name": "Ann"}), Member("c2", "bob")


OTHER_CONTENT: dict[str, dict[str, Any]] = {
    "another value": {"value": {"x": 2, "y": [1.5]}},
    "a key less": {"value": {"x": 1}},
    "another tag": {"tags": {"k": "other"}},
    "no tag": {"tags": None},
    "a connection excluded": {"exclude": frozenset({"c9"})},
    "not to be stored": {"transient": True, "retention": None},
}
"""What makes another message of one that has a key."""

SAME_CONTENT: dict[str, dict[str, Any]] = {
    "keys in another order": {"value": {"y": [{"b": 2, "a": 1}], "x": "{"}},
    "another connection": {"sender": Sender("c2", "ann")},
    "another level": {"level": AckLevel.REPLICATED},
    "exclusions in another order": {"exclude": frozenset({"c8", "c9"})},
    "another retention": {"retention": Retention(size=1, ttl=1.0)},
    "tags in another order": {"tags": {"l": "w", "k": "v"}},
}
"""What does not."""


class PublishContract:
    """PublishContract: order, ids, routes, idempotency keys."""

    async def test_offsets_start_at_one_in_each_channel(self, broker: Broker) -> None:
        first = await publish(broker, "a", "x", "y", "z")
        second = await publish(broker, "b", "x")
        assert [id.offset for id in first] == [1, 2, 3]
        assert [id.offset for id in second] == [1]

    async def test_uids_are_unique(self, broker: Broker) -> None:
        ids = [await publish(broker, channel, *range(50)) for channel in ("a", "b", "c")]
        uids = {id.uid for each in ids for id in each}
        assert len(uids) == 150
        assert all(MessageId.parse(str(id)) == id for each in ids for id in each)

    async def test_a_message_arrives_with_everything_that_was_published(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", KEPT)
        sender, tags = Sender("c1", "ann"), {"k": "v"}
        (id,) = await publish(
            broker, "a", {"x": [1, None]}, sender=sender, tags=tags, exclude=frozenset({"c9"})
        )
        (envelope,) = await node.received(1)
        assert isinstance(envelope, Delivery)
        assert envelope.exclude == {"c9"}
        message = envelope.message
        assert message == Message("a", payload_of({"x": [1, None]}), id, sender, tags, message.time)
        assert message.time is not None
        kept = (await broker.read("a")).messages
        assert list(kept) == [message]

    async def test_messages_are_in_the_order_of_the_publish_calls(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", KEPT)
        receipts = await asyncio.gather(*(broker.publish(publication("a", n)) for n in range(100)))
        assert [receipt.id and receipt.id.offset for receipt in receipts] == list(range(1, 101))
        messages = await node.messages(100)
        assert values(messages) == list(range(100))
        assert [message.message for message in messages] == [receipt.id for receipt in receipts]

    @pytest.mark.parametrize("connected", AckLevel)
    async def test_publishes_of_different_levels_keep_their_order(
        self, broker: Broker, node: RecordingNode, connected: AckLevel
    ) -> None:
        # Over Redis each level has a connection; only that of *connected* exists when the others begin.
        await broker.publish(publication("elsewhere", 0, level=connected))
        await broker.subscribe("a", KEPT)
        node.envelopes.clear()
        other = next(level for level in AckLevel if level is not connected)
        levels = [other, connected, connected, other, connected, other, other, connected]
        receipts = await asyncio.gather(
            *(broker.publish(publication("a", n, level=level)) for n, level in enumerate(levels))
        )
        offsets = [receipt.id and receipt.id.offset for receipt in receipts]
        assert offsets == list(range(1, len(levels) + 1))
        assert values(await node.messages(len(levels))) == list(range(len(levels)))
        assert [receipt.level is not None for receipt in receipts] == [
            level is AckLevel.REPLICATED for level in levels
        ]

    async def test_a_level_without_history_keeps_the_order_too(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.publish(publication("elsewhere", 0))
        await broker.subscribe("a", None)
        node.envelopes.clear()
        levels = [AckLevel.REPLICATED, None] * 3
        publications = [publication("a", n, level=level, retention=None) for n, level in enumerate(levels)]
        await asyncio.gather(*map(broker.publish, publications))
        assert values(await node.messages(len(levels))) == list(range(len(levels)))

    async def test_an_unstored_message_has_no_id_and_takes_no_offset(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", KEPT)
        await publish(broker, "a", 1)
        assert await broker.publish(publication("a", 2, retention=None)) == Receipt(None)
        await publish(broker, "a", 3)
        messages = await node.messages(3)
        assert [message.message and message.message.offset for message in messages] == [1, None, 2]
        assert values((await broker.read("a")).messages) == [1, 3]

    async def test_subscribe_returns_the_newest_position(self, broker: Broker) -> None:
        assert await broker.subscribe("a", None) is None
        empty = await broker.subscribe("a", KEPT)
        assert empty is not None
        assert empty.offset == 0
        *_, last = await publish(broker, "a", 1, 2)
        assert await broker.subscribe("a", KEPT) == last

    async def test_messages_are_delivered_after_unsubscribe_and_subscribe(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", KEPT)
        await broker.unsubscribe("a")
        await broker.unsubscribe("never")
        position = await broker.subscribe("a", KEPT)
        assert position is not None
        (id,) = await publish(broker, "a", 1)
        assert id.follows(position)
        assert [message.message for message in await node.messages(1)] == [id]

    # ------------------------------------------------------------ keys

    async def test_an_idempotency_key_publishes_once(self, broker: Broker, node: RecordingNode) -> None:
        await broker.subscribe("a", KEPT)
        first = await broker.publish(publication("a", 1, key="k"))
        again = await broker.publish(publication("a", 1, key="k"))
        assert (again.id, again.replayed, first.replayed) == (first.id, True, False)
        await publish(broker, "a", 3)
        assert values(await node.messages(2)) == [1, 3]
        assert values((await broker.read("a")).messages) == [1, 3]

    async def test_concurrent_publishes_with_one_key_publish_once(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", KEPT)
        receipts = await asyncio.gather(*(broker.publish(publication("a", 0, key="k")) for _ in range(10)))
        assert len({receipt.id for receipt in receipts}) == 1
        assert sum(not receipt.replayed for receipt in receipts) == 1
        await publish(broker, "a", "marker")
        assert values(await node.messages(2))[1] == "marker"

    async def test_a_key_applies_to_unstored_messages_too(self, broker: Broker, node: RecordingNode) -> None:
        await broker.subscribe("a", None)
        for _ in range(2):
            receipt = await broker.publish(publication("a", 1, key="k", retention=None))
        assert receipt == Receipt(None, replayed=True)
        await publish(broker, "a", "marker", retention=None)
        assert values(await node.messages(2)) == [1, "marker"]

    async def test_a_key_applies_to_its_channel_only(self, broker: Broker) -> None:
        for channel in ("a", "b"):
            receipt = await broker.publish(publication(channel, 1, key="k"))
            assert not receipt.replayed

    async def test_a_key_expires_after_its_ttl(self, broker: Broker, later: Later, key_ttl: float) -> None:
        await broker.publish(publication("a", 1, key="k"))
        await later(key_ttl * 0.9)
        assert (await broker.publish(publication("a", 1, key="k"))).replayed
        await later(key_ttl * 0.2)
        receipt = await broker.publish(publication("a", 3, key="k"))
        assert not receipt.replayed
        assert (await broker.publish(publication("a", 3, key="k"))).id == receipt.id

    @pytest.mark.parametrize("retention", [KEPT, None])
    @pytest.mark.parametrize("change", OTHER_CONTENT)
    async def test_a_key_with_other_content_is_rejected(
        self, broker: Broker, node: RecordingNode, retention: Retention | None, change: str
    ) -> None:
        other = OTHER_CONTENT[change]
        await broker.subscribe("a", retention)
        options = {"value": {"x": 1, "y": [1.5]}, "tags": {"k": "v"}, "retention": retention, "key": "k"}
        first = await broker.publish(publication("a", **options))
        with pytest.raises(KeyReused):
            await broker.publish(publication("a", **{**options, **other}))
        again = await broker.publish(publication("a", **options))
        assert (again.id, again.replayed) == (first.id, True)
        await publish(broker, "a", "marker", retention=retention)
        assert values(await node.messages(2)) == [options["value"], "marker"]
        assert broker.statistics()["keys_reused"] == 1
        assert broker.statistics()["published"] == 2

    @pytest.mark.parametrize("change", SAME_CONTENT)
    async def test_a_repeated_publish_may_differ_in_what_is_not_its_content(
        self, broker: Broker, change: str
    ) -> None:
        same = SAME_CONTENT[change]
        options: dict[str, Any] = {
            "value": {"x": "{", "y": [{"a": 1, "b": 2}]},
            "tags": {"k": "v", "l": "w"},
            "exclude": frozenset({"c9", "c8"}),
            "sender": Sender("c1", "ann"),
            "key": "k",
        }
        first = await broker.publish(publication("a", **options))
        again = await broker.publish(publication("a", **{**options, **same}))
        assert (again.id, again.replayed) == (first.id, True)

    async def test_concurrent_publishes_with_one_key_and_other_content_are_rejected(
        self, broker: Broker
    ) -> None:
        receipts = await asyncio.gather(
            *(broker.publish(publication("a", n % 2, key="k")) for n in range(6)), return_exceptions=True
        )
        assert [type(receipt) for receipt in receipts] == [Receipt, KeyReused] * 3


class PresenceContract:
    """Presence."""

    async def test_a_join_adds_a_member_and_is_delivered_once(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", None)
        for member in (ANN, BOB, ANN):
            await broker.join("a", member)
        present = await broker.presence("a")
        assert list(present.members) == [ANN, BOB]
        assert (present.connections, present.users) == (2, 2)
        await broker.leave("a", "c1")
        assert await node.received(3) == [Join("a", ANN), Join("a", BOB), Leave("a", ANN)]
        assert list((await broker.presence("a")).members) == [BOB]

    async def test_a_leave_is_delivered_once(self, broker: Broker, node: RecordingNode) -> None:
        await broker.subscribe("a", None)
        await broker.join("a", ANN)
        for connection in ("c1", "c1", "unknown"):
            await broker.leave("a", connection)
        await broker.leave("never", "c1")
        await broker.join("a", BOB)
        assert await node.received(3) == [Join("a", ANN), Leave("a", ANN), Join("a", BOB)]
        await broker.leave("a", "c2")
        assert list((await broker.presence("a")).members) == []

    async def test_a_second_join_replaces_the_info_without_an_envelope(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", None)
        newer = Member("c1", "ann", {"name": "Annie"})
        await broker.join("a", ANN)
        await broker.join("a", BOB)
        await broker.join("a", newer)
        assert list((await broker.presence("a")).members) == [newer, BOB]
        await broker.leave("a", "c1")
        assert await node.received(3) == [Join("a", ANN), Join("a", BOB), Leave("a", newer)]

    async def test_a_user_with_two_connections_is_one_user(self, broker: Broker) -> None:
        await broker.join("a", ANN)
        await broker.join("a", Member("c3", "ann"))
        present = await broker.presence("a")
        assert (present.connections, present.users) == (2, 1)

    async def test_count_follows_joins_and_leaves(self, broker: Broker) -> None:
        names = ["", "ann", 'a "quoted" one', "two words", "ä\\n", "x" * 128]
        for number, name in enumerate(names):
            await broker.join("a", Member(f"c{number}", name, {"name": name}))
            await broker.join("a", Member(f"d{number}", name))
        assert await broker.count("a") == PresenceCount(12, 6)
        await broker.join("a", Member("c1", "ann", {"name": "Annie"}))
        assert await broker.count("a") == PresenceCount(12, 6)
        await broker.join("a", Member("c1", "bob"))
        assert await broker.count("a") == PresenceCount(12, 7)
        for number in range(6):
            await broker.leave("a", f"d{number}")
        for connection in ("d0", "unknown"):
            await broker.leave("a", connection)
        assert await broker.count("a") == PresenceCount(6, 6)
        present = await broker.presence("a")
        assert (present.connections, present.users) == (6, 6)
        assert await broker.count("b") == PresenceCount(0, 0)

    # ------------------------------------------------------------ the grace of a leave

    async def test_a_user_who_returns_within_the_grace_has_neither_left_nor_joined(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", None)
        assert await broker.join("a", ANN) == ANN
        assert await broker.join("a", BOB) == BOB
        await broker.leave("a", "c1", grace=LONG_GRACE)
        assert list((await broker.presence("a")).members) == [ANN, BOB], "listed during the grace"
        assert await broker.count("a") == PresenceCount(2, 2)
        assert await broker.join("a", replace(ANN, connection="c3")) == ANN, "listed as before"
        assert list((await broker.presence("a")).members) == [ANN, BOB]
        assert await broker.count("a") == PresenceCount(2, 2)
        await broker.leave("a", "c1")  # no longer the connection of a member
        await broker.leave("a", "c3")
        assert await node.received(3) == [Join("a", ANN), Join("a", BOB), Leave("a", ANN)]
        assert list((await broker.presence("a")).members) == [BOB]

    async def test_a_leave_is_delivered_when_its_grace_has_ended(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", None)
        await broker.join("a", ANN)
        await broker.leave("a", "c1", grace=SHORT_GRACE)
        assert await node.received(2) == [Join("a", ANN), Leave("a", ANN)]
        assert (await broker.presence("a")).connections == 0
        newer = replace(ANN, connection="c3")
        assert await broker.join("a", newer) == newer
        assert await node.received(1) == [Join("a", newer)]

    async def test_the_end_of_a_grace_does_not_remove_a_member_whose_user_has_returned(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", None)
        for member in (ANN, BOB):
            await broker.join("a", member)
        await broker.leave("a", "c1", grace=SHORT_GRACE)
        await broker.join("a", replace(ANN, connection="c3"))
        await broker.leave("a", "c3", grace=LONG_GRACE)  # a second grace, which the first must not end
        await broker.join("a", replace(ANN, connection="c4"))
        await broker.leave("a", "c2", grace=SHORT_GRACE)  # ends after the first grace
        assert await node.received(3) == [Join("a", ANN), Join("a", BOB), Leave("a", BOB)]
        assert list((await broker.presence("a")).members) == [ANN]

    async def test_only_the_same_user_with_the_same_info_returns(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", None)
        await broker.join("a", ANN)
        await broker.leave("a", "c1", grace=LONG_GRACE)
        others = [Member("c3", "ann"), Member("c4", "ben", ANN.info), Member("c5", "")]
        for member in others:
            assert await broker.join("a", member) == member
        assert list((await broker.presence("a")).members) == [ANN, *others]
        await broker.leave("a", "c1")
        assert await node.received(5) == [*(Join("a", each) for each in (ANN, *others)), Leave("a", ANN)]

    async def test_each_connection_of_a_user_passes_to_one_that_returns(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", None)
        first, second = Member("c1", 'an "n"'), Member("c2", 'an "n"')
        for member in (first, second):
            await broker.join("a", member)
        for member in (first, second):
            await broker.leave("a", member.connection, grace=LONG_GRACE)
        listed = [await broker.join("a", replace(first, connection=f"d{number}")) for number in range(3)]
        assert listed == [first, second, replace(first, connection="d2")]
        assert list((await broker.presence("a")).members) == listed
        assert await broker.count("a") == PresenceCount(3, 1)
        for number in range(3):
            await broker.leave("a", f"d{number}")
        joins = [Join("a", each) for each in listed]
        assert await node.received(6) == [*joins, *(Leave("a", each) for each in listed)]
        assert await broker.count("a") == PresenceCount(0, 0)

    async def test_the_same_connection_may_return_with_another_info(
        self, broker: Broker, node: RecordingNode
    ) -> None:
        await broker.subscribe("a", None)
        await broker.join("a", ANN)
        await broker.leave("a", "c1", grace=LONG_GRACE)
        await broker.join("a", replace(ANN, connection="c3"))
        await broker.leave("a", "c3", grace=SHORT_GRACE)
        newer = Member("c3", "ann", {"name": "Annie"})
        assert await broker.join("a", newer) == replace(newer, connection="c1")
        await broker.join("a", BOB)
        await broker.leave("a", "c2", grace=SHORT_GRACE)
        await broker.leave("never", "c2", grace=SHORT_GRACE)
        assert await node.received(3) == [Join("a", ANN), Join("a", BOB), Leave("a", BOB)]
        assert list((await broker.presence("a")).members) == [replace(newer, connection="c1")]

    async def test_members_belong_to_one_channel(self, broker: Broker) -> None:
        await broker.join("a", ANN)
        assert (await broker.presence("b")).connections == 0
        await broker.leave("b", "c1")
        assert (await broker.presence("a")).connections == 1


class DirectoryContract:
    """Lookups of users, channels and nodes."""

    async def test_connections_of_a_user(self, broker: Broker, node: RecordingNode) -> None:
        record = ConnectionRecord("c1", "n1", ["a"], 12.5)
        node.connected["ann"] = [record]
        assert list((await broker.connections("ann")).items) == [record]
        assert list((await broker.connections("bob")).items) == []

    async def test_user_commands_reach_the_node(self, broker: Broker, node: RecordingNode) -> None:
        node.connected["ann"] = [ConnectionRecord("c1", "n1", [], 1.0)]
        command = UserCommand(
            "ann", "disconnect", code=4005, reason="bye", except_connections=frozenset({"c2"})
        )
        await broker.send_user_command(command)
        assert await node.received(1) == [command]

    async def test_subscribed_channels_are_listed_in_pages(self, broker: Broker, node: RecordingNode) -> None:
        node.followed.update({f"room:{n:02}": n for n in range(1, 8)}, zoo=3, room=1)
        pages, after = [], ""
        while page := (await broker.subscribed_channels("room:", after=after, limit=3)).items:
            pages.append([record.channel for record in page])
            after = page[-1].channel
        assert pages == [
            ["room:01", "room:02", "room:03"],
            ["room:04", "room:05", "room:06"],
            ["room:07"],
        ]
        first, *_, last = (await broker.subscribed_channels("", after="", limit=100)).items
        assert (first, last) == (ChannelRecord("room", 1), ChannelRecord("zoo", 3))

    async def test_nodes_returns_the_record_of_the_node(self, broker: Broker, node: RecordingNode) -> None:
        (record,) = await broker.nodes()
        assert isinstance(record, NodeRecord)
        assert (record.node, record.connections, record.subscriptions) == (node.name, 3, 5)

    async def test_statistics_count_publishes_and_replays(self, broker: Broker) -> None:
        before = broker.statistics()
        await publish(broker, "a", 1)
        await broker.publish(publication("a", 1, key="k"))
        await broker.publish(publication("a", 1, key="k"))
        after = broker.statistics()
        assert after["published"] - before["published"] == 2
        assert after["replayed"] - before["replayed"] == 1
        assert all(isinstance(figure, int) for figure in after.values())


class LifecycleContract:
    """Start and close."""

    async def test_a_broker_that_is_not_started_raises_broker_unavailable(self, idle: Broker) -> None:
        assert not idle.ready()
        attempts: list[Awaitable[object]] = [
            idle.publish(publication("a", 1)),
            idle.publish(publication("a", 1, retention=None, key="k")),
            idle.subscribe("a", KEPT),
            idle.read("a"),
            idle.clear("a"),
            idle.join("a", ANN),
            idle.connections("ann"),
            idle.send_user_command(UserCommand("ann", "disconnect")),
            idle.subscribed_channels("", after="", limit=1),
            idle.nodes(),
        ]
        for attempt in attempts:
            with pytest.raises(BrokerUnavailable) as error:
                await attempt
            assert error.value.retry_after > 0

    async def test_a_rejected_call_has_no_effect_later(self, idle: Broker, node: RecordingNode) -> None:
        with pytest.raises(BrokerUnavailable):
            await idle.publish(publication("a", 1, key="k"))
        with pytest.raises(BrokerUnavailable):
            await idle.join("a", ANN)
        await idle.start(node)
        try:
            assert idle.ready()
            assert (await idle.presence("a")).connections == 0
            assert list((await idle.read("a")).messages) == []
            assert not (await idle.publish(publication("a", 1, key="k"))).replayed
        finally:
            await idle.close()

    async def test_nothing_is_delivered_after_close(self, broker: Broker, node: RecordingNode) -> None:
        await broker.subscribe("a", KEPT)
        await broker.join("a", ANN)
        await node.received(1)
        await broker.close()
        assert not broker.ready()
        await broker.leave("a", "c1")
        with pytest.raises(BrokerUnavailable):
            await publish(broker, "a", 1)
        assert node.envelopes == []


class BrokerContract(
    PublishContract, HistoryContract, PresenceContract, DirectoryContract, LifecycleContract
):
    """The whole contract.

    Fixtures: `node`; `broker`, which serves it; `other`, a broker of another node and with other data;
    `idle`, a broker that is not started; `later`; `key_ttl` and `meta_ttl` in seconds.
    """
