"""What each command does, and when it is rejected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.defaults import PRESENCE_GRACE_SECONDS
from gateway.hub.services import SessionLimits
from protocol.errors import ErrorCode
from protocol.messages import (
    Connect,
    Error,
    History,
    HistoryPage,
    Join,
    Leave,
    Member,
    Message,
    Presence,
    PresenceState,
    Publish,
    Published,
    Sender,
    Subscribe,
    Unsubscribe,
    Unsubscribed,
)
from protocol.payload import payload_of
from protocol.position import MessageId
from tests.gateway.hub.interleavings import GatedBroker
from tests.gateway.node import RULES, Client, running_node, values_of
from tests.gateway.virtual_time import advance, on_virtual_time, until_idle


def pushed(client: Client, kind: type) -> list[Any]:
    return [message for message in client.transport.messages if isinstance(message, kind)]


# ---------------------------------------------------------------- subscribe, unsubscribe


@on_virtual_time
async def test_a_subscription_starts_now_at_a_position_or_with_the_newest_messages() -> None:
    async with running_node() as node:
        ids = [(await node.publish("h:a", value)).id for value in range(5)]
        for options, messages, recovered in (
            ({}, [], False),
            ({"since": ids[2]}, [3, 4], True),
            ({"since": ids[4]}, [], True),
            ({"since": MessageId(3, "other")}, [], False),
            ({"rewind": 2}, [3, 4], False),
            ({"rewind": 50}, [0, 1, 2, 3, 4], False),
            ({"rewind": 0}, [], False),
            ({"since": ids[3], "rewind": 3}, [4], True),
        ):
            for _ in range(2):  # once read from the broker, and once from the cache of the hub
                client = await node.connect()
                reply = await client.subscribe("h:a", **options)
                assert (values_of(reply.messages), reply.recovered) == (messages, recovered), options
                assert reply.position == ids[-1]
            for client in node.clients:
                client.disconnect()


@on_virtual_time
async def test_a_rewind_returns_no_more_than_history_keeps() -> None:
    rules = {**RULES, "h": replace(RULES["h"], history=3, history_ttl=10.0)}
    async with running_node(rules=rules) as node:
        follower = await node.connect()
        await follower.subscribe("h:a")
        await node.publish("h:a", *range(5))
        shown = []
        for _ in range(3):
            client = await node.connect()
            shown.append(values_of((await client.subscribe("h:a", rewind=50)).messages))
            await advance(5.0)
        assert shown == [[2, 3, 4], [2, 3, 4], []]


@on_virtual_time
async def test_a_rewind_is_bounded_and_returns_the_newest_that_fit() -> None:
    async with running_node(limits=SessionLimits(rewind=4, outbox=8_000)) as node:
        await node.publish("h:a", *range(9))
        await node.publish("h:b", *([number, "x" * 1_000] for number in range(9)))
        client = await node.connect()
        assert values_of((await client.subscribe("h:a", rewind=100)).messages) == [5, 6, 7, 8]
        reply = await client.subscribe("h:b", rewind=100)
        assert [value[0] for value in values_of(reply.messages)] == [6, 7, 8]


@on_virtual_time
async def test_a_cleared_history_is_not_served_although_the_hub_received_it() -> None:
    async with running_node() as node:
        follower = await node.connect()
        await follower.subscribe("h:a")
        first = await node.publish("h:a", 1)
        await node.publish("h:a", 2)
        await node.broker.clear("h:a")
        client = await node.connect()
        assert list((await client.subscribe("h:a", rewind=9)).messages) == []
        resuming = await node.connect()
        assert not (await resuming.subscribe("h:a", since=first.id)).recovered
        await until_idle()
        await node.publish("h:a", 3)
        await until_idle()
        assert (follower.values(), client.values()) == ([1, 2, 3], [3])


@on_virtual_time
async def test_messages_that_do_not_fit_into_the_reply_follow_it() -> None:
    async with running_node(limits=SessionLimits(outbox=8_000)) as node:
        first = await node.publish("h:a", "begun")
        await node.publish("h:a", *([number, "x" * 1_000] for number in range(9)))
        client = await node.connect()
        reply = await client.subscribe("h:a", since=first.id)
        assert [value[0] for value in values_of(reply.messages)] == [0, 1, 2]
        assert (reply.recovered, reply.position) == (True, reply.messages[-1].message)
        await node.publish("h:a", ["next"])
        await until_idle()
        assert [value[0] for value in client.values()] == [3, 4, 5, 6, 7, 8, "next"]


@on_virtual_time
async def test_a_message_too_large_for_any_reply_follows_it() -> None:
    async with running_node(limits=SessionLimits(outbox=8_000)) as node:
        first = await node.publish("h:a", "begun")
        await node.publish("h:a", "x" * 6_000, "last")
        client = await node.connect()
        reply = await client.subscribe("h:a", since=first.id)
        assert (list(reply.messages), reply.recovered, reply.position) == ([], True, first.id)
        await until_idle()
        assert client.values() == ["x" * 6_000, "last"]


@on_virtual_time
async def test_a_second_subscribe_or_unsubscribe_is_rejected() -> None:
    async with running_node() as node:
        client = await node.connect()
        await client.subscribe("h:a")
        assert (await client.request_rejected(Subscribe(10, "h:a"))).code == "already_subscribed"
        assert await client.request(Unsubscribe(11, "h:a")) == Unsubscribed("h:a", id=11)
        assert (await client.request_rejected(Unsubscribe(12, "h:a"))).code == "not_subscribed"
        await node.publish("h:a", 1)
        await until_idle()
        assert client.values() == []
        await client.subscribe("h:a")
        await node.publish("h:a", 2)
        await until_idle()
        assert client.values() == [2]


@on_virtual_time
async def test_a_channel_token_permits_one_channel_until_it_expires() -> None:
    async with running_node(interval=10_000.0) as node:
        client = await node.connect(user="ann")
        assert (await client.request_rejected(Subscribe(10, "token:a"))).code == "permission_denied"
        other = node.token("ann", channel="token:b")
        assert (
            await client.request_rejected(Subscribe(11, "token:a", token=other))
        ).code == "permission_denied"
        token = node.token("ann", ttl=60.0, channel="token:a")
        await client.subscribe("token:a", token=token)
        early = await node.connect(user="ann")
        await early.subscribe("token:a", token=token)
        await early.request(Unsubscribe(50, "token:a"))
        await advance(59.0)
        await node.publish("token:a", 1)
        await until_idle()
        assert client.values() == [1]
        await advance(2.0)
        (ended,) = pushed(client, Unsubscribed)
        assert (ended.channel, ended.code, ended.id) == ("token:a", "token_expired", None)
        assert [reply.id for reply in pushed(early, Unsubscribed)] == [50]
        await node.publish("token:a", 2)
        await until_idle()
        assert client.values() == [1]


# ---------------------------------------------------------------- presence


def member(client: Client, info: Any = None) -> Member:
    return Member(client.session.connection, client.session.user, info)


@on_virtual_time
async def test_joins_and_leaves_are_pushed_to_subscribers_that_want_them() -> None:
    async with running_node() as node:
        watcher, deaf = await node.connect(user="ann"), await node.connect(user="ben")
        reply = await watcher.subscribe("p:a", members=True)
        assert reply.members == (member(watcher),)
        assert (await deaf.subscribe("p:a", join_leave=False)).members is None
        late = await node.connect(user="cleo")
        joined = (await late.subscribe("p:a", members=True)).members
        assert joined == (member(watcher), member(deaf), member(late))
        await late.request(Unsubscribe(50, "p:a"))
        deaf.disconnect()
        await advance(PRESENCE_GRACE_SECONDS)
        assert pushed(watcher, Join) == [Join("p:a", member(deaf)), Join("p:a", member(late))]
        assert pushed(watcher, Leave) == [Leave("p:a", member(late)), Leave("p:a", member(deaf))]
        assert pushed(deaf, Join) == pushed(deaf, Leave) == []
        assert pushed(late, Join) == pushed(late, Leave) == []


@pytest.mark.parametrize("default", [True, False])
@on_virtual_time
async def test_join_leave_defaults_to_the_namespace(default: bool) -> None:
    async with running_node(rules={**RULES, "p": replace(RULES["p"], join_leave=default)}) as node:
        clients = [await node.connect() for _ in range(3)]
        for client, watch in zip(clients, (None, True, False), strict=True):
            await client.subscribe("p:a", join_leave=watch)
        late = await node.connect()
        await late.subscribe("p:a")
        await until_idle()
        got_join = [member(late) in [join.member for join in pushed(client, Join)] for client in clients]
        assert got_join == [default, True, False]


@on_virtual_time
async def test_a_member_has_the_info_of_its_token() -> None:
    async with running_node() as node:
        client = node.open()
        await client.connect(Connect(1, token=node.token("ann", info={"name": "Ann"})))
        reply = await client.subscribe("p:a", members=True)
        assert reply.members == (member(client, {"name": "Ann"}),)


@on_virtual_time
async def test_join_leave_without_presence_pushes_nothing() -> None:
    async with running_node() as node:
        client, other = await node.connect(), await node.connect()
        reply = await client.subscribe("h:a", join_leave=True, members=True)
        await other.subscribe("h:a")
        assert (reply.members, pushed(client, Join)) == (None, [])


@on_virtual_time
async def test_presence_returns_counts_and_members_on_demand() -> None:
    async with running_node() as node:
        clients = [await node.connect(user=user) for user in ("ann", "ann", "ben")]
        for client in clients:
            await client.subscribe("p:a")
        reply = await clients[0].request(Presence(50, "p:a"))
        assert reply == PresenceState(50, "p:a", connections=3, users=2)
        reply = await clients[0].request(Presence(51, "p:a", members=True))
        assert reply.members == tuple(map(member, clients))
        outsider = await node.connect()
        assert (await outsider.request_rejected(Presence(52, "p:a"))).code == "not_subscribed"
        await outsider.subscribe("h:a")
        error = await outsider.request_rejected(Presence(53, "h:a"))
        assert (error.code, "turn it on in [channels.h]" in error.message) == ("bad_request", True)


@on_virtual_time
async def test_members_in_a_reply_include_every_change_that_was_pushed_before() -> None:
    broker = GatedBroker(only=frozenset({"presence"}))
    async with running_node(broker=broker) as node:
        client, leaving, joining = [await node.connect(user=user) for user in ("ann", "ben", "cem")]
        await client.subscribe("p:a")
        await leaving.subscribe("p:a")
        client.send(Presence(50, "p:a", members=True))
        broker.open(broker.gates[0])
        await until_idle()  # the broker has answered, and its answer is on the way
        joined = await joining.subscribe("p:a")
        await leaving.request(Unsubscribe(51, "p:a"))
        await advance(PRESENCE_GRACE_SECONDS)
        assert len(pushed(client, Leave)) == 1
        await broker.pass_all()
        (reply,) = pushed(client, PresenceState)
        assert (joined.type, reply.members) == ("subscribed", (member(client), member(joining)))
        assert (reply.connections, reply.users) == (2, 2)


@on_virtual_time
async def test_a_presence_reply_is_bounded_and_counts_all_members() -> None:
    async with running_node(limits=SessionLimits(presence_reply=3)) as node:
        clients = [await node.connect(user="ann") for _ in range(4)]
        for client in clients[:3]:
            assert (await client.subscribe("p:a", members=True)).truncated is None
        assert (await clients[0].request(Presence(50, "p:a", members=True))).truncated is None
        last = await clients[3].subscribe("p:a", members=True)
        assert (last.members, last.truncated) == (tuple(map(member, clients[:3])), True)
        counted = PresenceState(51, "p:a", connections=4, users=1)
        assert await clients[0].request(Presence(51, "p:a")) == counted
        shown = replace(counted, id=52, members=tuple(map(member, clients[:3])), truncated=True)
        assert await clients[0].request(Presence(52, "p:a", members=True)) == shown


@on_virtual_time
async def test_large_members_take_half_an_outbox_at_most_and_delay_no_replay() -> None:
    async with running_node(limits=SessionLimits(outbox=10_000)) as node:
        first = await node.publish("hp:a", 0)
        await node.publish("hp:a", *range(1, 30))
        token = node.token("ann", info={"about": "x" * 1_000})
        clients = [node.open() for _ in range(9)]
        for client in clients:
            await client.connect(Connect(1, token=token))
            reply = await client.subscribe("hp:a", members=True, since=first.id)
            assert len(reply.members or ()) == min(4, clients.index(client) + 1)
            assert reply.recovered
            assert values_of(reply.messages) + client.values("hp:a") == list(range(1, 30))
            assert max(map(len, client.transport.writes)) < 10_000
        assert len((await clients[0].request(Presence(50, "hp:a", members=True))).members) == 4


# ---------------------------------------------------------------- publish, history


@on_virtual_time
async def test_a_publisher_gets_its_message_like_every_subscriber() -> None:
    async with running_node() as node:
        client, other = await node.connect(user="ann"), await node.connect()
        for each in (client, other):
            await each.subscribe("h:a")
        reply = await client.request(Publish(50, "h:a", payload_of({"x": 1}), key="k"))
        again = await client.request(Publish(51, "h:a", payload_of({"x": 1}), key="k"))
        assert isinstance(reply, Published)
        assert again == replace(reply, id=51)
        (message,) = pushed(client, Message)
        assert pushed(other, Message) == [message]
        assert message.message == reply.message
        assert message.sender == Sender(client.session.connection, "ann")
        assert (await client.request(Publish(52, "a", payload_of(1)))) == Published(52, "a")


@on_virtual_time
async def test_an_idempotency_key_counts_for_one_client_only() -> None:
    async with running_node() as node:
        first, second = await node.connect(user="ann"), await node.connect(user="ann")
        other, nobody, no_one = await node.connect(user="ben"), await node.connect(), await node.connect()
        ids = [
            (await client.request(Publish(50, "h:a", payload_of(1), key="k"))).message
            for client in (first, second, other, nobody, no_one)
        ]
        assert ids[0] == ids[1], "of one user"
        assert len(set(ids)) == 4
        assert not (await node.publish("h:a", 1, key="k")).replayed


@on_virtual_time
async def test_a_forbidden_publish_is_rejected_with_the_reason() -> None:
    rules = {**RULES, "mine": replace(RULES["h"], namespace="mine", publish="subscribers")}
    async with running_node(rules=rules) as node:
        client = await node.connect()
        assert (
            await client.request_rejected(Publish(50, "nobody:a", payload_of(1)))
        ).code == "permission_denied"
        assert (
            await client.request_rejected(Publish(51, "mine:a", payload_of(1)))
        ).code == "permission_denied"
        await client.subscribe("mine:a")
        assert isinstance(await client.request(Publish(52, "mine:a", payload_of(1))), Published)


@on_virtual_time
async def test_history_is_read_in_pages_both_ways() -> None:
    async with running_node(limits=SessionLimits(history_reply=4)) as node:
        client = await node.connect()
        beginning = (await client.subscribe("h:a")).position
        ids = [(await node.publish("h:a", value)).id for value in range(10)]
        for options, values in (
            ({}, [0, 1, 2, 3]),
            ({"limit": 2}, [0, 1]),
            ({"limit": 50}, [0, 1, 2, 3]),
            ({"limit": 0}, []),
            ({"since": ids[6]}, [7, 8, 9]),
            ({"since": beginning}, [0, 1, 2, 3]),
            ({"reverse": True}, [9, 8, 7, 6]),
            ({"reverse": True, "since": ids[2]}, [1, 0]),
        ):
            reply = await client.request(History(client.next_id(), "h:a", **options))
            assert isinstance(reply, HistoryPage)
            assert (values_of(reply.messages), reply.position) == (values, ids[-1]), options


@on_virtual_time
async def test_an_empty_history_can_be_read_from_offset_zero() -> None:
    async with running_node() as node:
        client = await node.connect()
        beginning = (await client.subscribe("h:a")).position
        reply = await client.request(History(50, "h:a", since=beginning))
        assert (reply.position, list(reply.messages)) == (beginning, [])


@on_virtual_time
async def test_a_page_of_history_is_no_larger_than_half_an_outbox() -> None:
    async with running_node(limits=SessionLimits(outbox=8_000)) as node:
        client = await node.connect()
        await client.subscribe("h:a")
        await node.publish("h:a", *([number, "x" * 1_500] for number in range(6)))
        seen, since = [], None
        for _ in range(3):
            page = await client.request(History(client.next_id(), "h:a", since=since))
            seen += [value[0] for value in values_of(page.messages)]
            since = page.messages[-1].message
        assert seen == list(range(6))
        await node.publish("h:b", "x" * 9_000)
        await client.subscribe("h:b")
        assert len((await client.request(History(60, "h:b"))).messages) == 1, (
            "never none: it would go on for ever"
        )


@on_virtual_time
async def test_history_needs_a_subscription_and_a_channel_with_history() -> None:
    async with running_node() as node:
        client = await node.connect()
        assert (await client.request_rejected(History(50, "h:a"))).code == "not_subscribed"
        await client.subscribe("a")
        assert (await client.request_rejected(History(51, "a"))).code == "bad_request"
        await client.subscribe("h:a")
        error = await client.request_rejected(History(52, "h:a", since=MessageId(3, "x")))
        assert (error.code, "3-x is no longer in this history" in error.message) == ("bad_request", True)


@on_virtual_time
async def test_a_key_of_another_message_is_rejected() -> None:
    async with running_node() as node:
        client = await node.connect(user="ann")
        await client.subscribe("h:a")
        await client.request(Publish(50, "h:a", payload_of(1), key="k"))
        error = await client.request(Publish(51, "h:a", payload_of(2), key="k"))
        assert isinstance(error, Error)
        assert (error.code, error.retry_after_ms) == (ErrorCode.KEY_REUSED, None)
        await until_idle()
        assert client.values() == [1]
        # The same user may repeat it on another connection, and another user has keys of its own.
        again = await (await node.connect(user="ann")).request(Publish(50, "h:a", payload_of(1), key="k"))
        other = await (await node.connect(user="bob")).request(Publish(50, "h:a", payload_of(2), key="k"))
        assert isinstance(again, Published)
        assert isinstance(other, Published)
        assert [reply.message and reply.message.offset for reply in (again, other)] == [1, 2]


@on_virtual_time
async def test_data_above_the_limit_is_rejected_and_the_connection_stays() -> None:
    async with running_node(limits=SessionLimits(message_size=100)) as node:
        client = await node.connect()
        await client.subscribe("h:a")
        assert isinstance(await client.request(Publish(50, "h:a", payload_of("x" * 98))), Published)
        error = await client.request(Publish(51, "h:a", payload_of("x" * 99)))
        assert isinstance(error, Error)
        assert (error.code, error.retry_after_ms) == (ErrorCode.TOO_LARGE, None)
        assert isinstance(await client.request(Publish(52, "h:a", payload_of("after"))), Published)
        await until_idle()
        assert client.values() == ["x" * 98, "after"]
