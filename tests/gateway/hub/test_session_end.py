"""How a session ends: with its token, by a heartbeat timeout, at any step of a command; nothing is left."""

from __future__ import annotations

import asyncio

import pytest

from gateway.access.admission import AdmissionLimits
from gateway.access.claims import Identity
from gateway.defaults import PRESENCE_GRACE_SECONDS
from gateway.hub.expiry_timer import EXPIRY_NOTICE_SECONDS
from protocol.codec import JSON, MSGPACK, Codec
from protocol.messages import (
    Connect,
    Connected,
    Expiring,
    Ping,
    Pong,
    Publish,
    Refresh,
    Refreshed,
    Resume,
    ServerPing,
    Subscribe,
    Subscribed,
)
from protocol.payload import payload_of
from tests.gateway.hub.interleavings import GatedBroker
from tests.gateway.node import Client, running_node
from tests.gateway.virtual_time import advance, on_virtual_time, until_idle, virtual_loop

CODECS = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])


def types(client: Client) -> list[str]:
    return [message.type for message in client.transport.messages]


# ---------------------------------------------------------------- tokens


@on_virtual_time
async def test_a_session_closes_with_its_token_after_expiring_unless_refreshed() -> None:
    async with running_node(interval=10_000.0) as node:
        client = await node.connect()
        assert client.welcome.expires_in is None
        client = await node.connect(user="ann")
        assert client.welcome.expires_in == 3_600.0
        await advance(3_600.0 - EXPIRY_NOTICE_SECONDS - 1.0)
        assert "expiring" not in types(client)
        await advance(1.0)
        assert client.transport.messages[-1] == Expiring(EXPIRY_NOTICE_SECONDS)
        reply = await client.request(Refresh(50, node.token("ann", ttl=100.0)))
        assert reply == Refreshed(50, 100.0)
        await advance(100.0 - EXPIRY_NOTICE_SECONDS)
        assert client.transport.messages[-1] == Expiring(EXPIRY_NOTICE_SECONDS)
        await advance(EXPIRY_NOTICE_SECONDS)
        assert client.transport.closed == (4004, "token_expired")


@on_virtual_time
async def test_expiring_of_a_short_token_is_sent_at_half_its_time() -> None:
    async with running_node() as node:
        client = node.open()
        await client.connect(Connect(1, token=node.token("ann", ttl=10.0)))
        await advance(5.0)
        assert client.transport.messages[-1] == Expiring(5.0)
        await advance(5.0)
        assert client.transport.closed == (4004, "token_expired")


@on_virtual_time
async def test_expiring_never_comes_before_the_reply_to_connect() -> None:
    broker = GatedBroker(only=frozenset({"subscribe"}))
    async with running_node(broker=broker) as node:
        client = node.open()
        client.send(Connect(1, token=node.token("ann", ttl=10.0), subs={"h:a": Resume()}))
        await advance(6.0)
        assert types(client) == []
        await broker.pass_all()
        assert types(client) == ["connected"]
        await advance(2.0)
        assert client.transport.messages[-1] == Expiring(2.0)
        await advance(2.0)
        assert client.transport.closed == (4004, "token_expired")


@pytest.mark.parametrize("subs", [{}, {"h:a": Resume()}])
@on_virtual_time
async def test_a_token_that_expires_before_the_reply_to_connect_closes(subs: dict[str, Resume]) -> None:
    broker = GatedBroker(only=frozenset({"subscribe"}))
    async with running_node(broker=broker) as node:
        client = node.open()
        client.send(Connect(1, token=node.token("ann", ttl=10.0), subs=subs))
        await advance(10.0)
        assert (types(client), client.transport.closed) == ([], (4004, "token_expired"))
        await broker.pass_all()
        assert types(client) == []


@on_virtual_time
async def test_a_refresh_with_another_users_token_is_rejected_and_changes_nothing() -> None:
    async with running_node() as node:
        client = await node.connect(user="ann")
        for wrong in (node.token("bob"), "nonsense"):
            error = await client.request_rejected(Refresh(client.next_id(), wrong))
            assert error.code == "unauthorized"
        anonymous = await node.connect()
        error = await anonymous.request_rejected(Refresh(50, node.token("ann")))
        assert error.code == "unauthorized"
        assert (client.session.user, client.transport.is_open, anonymous.transport.is_open) == (
            "ann",
            True,
            True,
        )


class FakeVerifier:
    """A verifier that accepts every token, once the test lets it; `user expires_at` or `user` alone."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.slow = False

    async def identity(self, token: str) -> Identity:
        if self.slow:
            self.waiting.append(asyncio.get_running_loop().create_future())
            await self.waiting[-1]
        user, _, expires_at = token.partition(" ")
        return Identity(user, float(expires_at) if expires_at else None)


@on_virtual_time
async def test_a_token_without_expiry_never_closes_the_session() -> None:
    keys = FakeVerifier()
    async with running_node(verifier=keys, interval=10_000.0) as node:
        client = node.open()
        reply = await client.connect(Connect(1, token=f"ann {node.wall() + 50.0}"))
        assert reply.expires_in == 50.0
        assert await client.request(Refresh(2, "ann")) == Refreshed(2, 0.0)
        await advance(9_000.0)
        assert types(client) == ["connected", "refreshed"]


@pytest.mark.parametrize("command", ["connect", "refresh"])
@on_virtual_time
async def test_a_disconnect_while_keys_are_fetched_leaves_no_timer(command: str) -> None:
    keys = FakeVerifier()
    async with running_node(verifier=keys) as node:
        client = node.open()
        token = f"ann {node.wall() + 50.0}"
        if command == "refresh":
            await client.connect(Connect(1, token=token))
        keys.slow = True
        client.send(Connect(1, token=token) if command == "connect" else Refresh(2, token))
        await until_idle()
        client.disconnect()
        keys.waiting[0].set_result(None)
        await until_idle()
        await advance(5.0)
        assert (virtual_loop().timer_count, node.hub.sessions) == (0, {})


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("gates", range(8))
@pytest.mark.parametrize("how", ["lost", "disconnected", "drained"])
@on_virtual_time
async def test_a_disconnect_while_a_command_waits_leaves_nothing(gates: int, how: str) -> None:
    broker = GatedBroker()
    async with running_node(broker=broker, admission=AdmissionLimits(per_user=1)) as node:
        client = node.open()
        client.send(Connect(1, token=node.token("ann")))
        await broker.pass_all()
        client.send(Subscribe(2, "hp:a", rewind=3, members=True), Subscribe(3, "hp:b"), Ping(4))
        for _ in range(gates):
            await until_idle()
            broker.open(broker.gates[0])
        await until_idle()
        if how == "lost":
            client.disconnect()
        elif how == "disconnected":
            await node.send_user_command("ann", "disconnect")
        else:
            client.session.close(4000)
        assert node.hub.sessions == {}
        again = node.open()
        again.send(Connect(1, token=node.token("ann")))
        await broker.pass_all()
        assert isinstance(again.reply(1), Connected), "the slot was free"
        assert node.released == [client.session.connection]
        again.disconnect()
        await broker.pass_all()
        await advance(PRESENCE_GRACE_SECONDS)
        for channel in ("hp:a", "hp:b"):
            assert (await broker.inner.presence(channel)).connections == 0
        assert broker.routes == set()
        replies = [message for message in client.transport.messages if message.type in ("subscribed", "pong")]
        assert len(replies) <= (1 if gates < 8 else 3)


@pytest.mark.parametrize("gates", range(6))
@on_virtual_time
async def test_a_disconnect_while_connect_waits_leaves_nothing(gates: int) -> None:
    broker = GatedBroker()
    async with running_node(broker=broker) as node:
        client = node.open()
        client.send(Connect(1, token=node.token("ann", channels=["hp:a", "h:b"])), Ping(2))
        for _ in range(gates):
            await until_idle()
            broker.open(broker.gates[0])
        await until_idle()
        client.disconnect()
        assert node.hub.sessions == {}
        await broker.pass_all()
        await advance(PRESENCE_GRACE_SECONDS)
        assert (await broker.inner.presence("hp:a")).connections == 0
        assert (node.hub.channels, broker.routes) == ({}, set())


@on_virtual_time
async def test_a_publish_takes_effect_although_its_client_disconnects() -> None:
    broker = GatedBroker(only=frozenset({"publish"}))
    async with running_node(broker=broker) as node:
        client, other = await node.connect(), await node.connect()
        await other.subscribe("h:a")
        client.send(Publish(10, "h:a", payload_of(1)))
        await until_idle()
        client.disconnect()
        await broker.pass_all()
        assert (other.values(), client.replies(10)) == ([1], [])


@pytest.mark.parametrize("gates", range(9))
@on_virtual_time
async def test_a_node_that_stops_while_connects_wait_releases_their_channels(gates: int) -> None:
    broker = GatedBroker()
    async with running_node(broker=broker) as node:
        clients = [node.open() for _ in range(2)]
        subs = {"hp:a": Resume(), "nobody:x": Resume(), "hp:b": Resume()}
        for client in clients:
            client.send(Connect(1, subs=subs))
        for _ in range(gates):
            await until_idle()
            broker.open(broker.gates[0])
        await until_idle()
        for client in clients:
            client.disconnect()
        broker.only = frozenset()
        await node.tasks.close()
        assert node.hub.channels == {}
        for channel in ("hp:a", "hp:b"):
            assert (await broker.inner.presence(channel)).connections == 0


@on_virtual_time
async def test_close_writes_the_outbox_and_sends_code_and_reason() -> None:
    async with running_node() as node:
        client = await node.connect()
        await client.subscribe("h:a")
        await node.publish("h:a", 1)
        client.session.send(ServerPing())
        client.session.close(4005, "that is all")
        client.session.close(4011)
        assert client.transport.closed == (4005, "that is all")
        assert types(client)[-1] == "ping"
        client.session.on_closed(1006)
        assert node.released == [client.session.connection]


@on_virtual_time
async def test_an_unknown_close_code_has_no_reason() -> None:
    async with running_node() as node:
        client = await node.connect()
        client.session.close(4999)
        assert client.transport.closed == (4999, "")


@on_virtual_time
async def test_an_ended_session_writes_nothing() -> None:
    async with running_node() as node:
        client = await node.connect(user="ann")
        await client.subscribe("h:a")
        session, written = client.session, len(client.transport.writes)
        client.disconnect()
        session.on_message(b"?", binary=False)
        session.on_message(b'{"type": "ping", "id": 4}', binary=False)
        session.send(ServerPing())
        session.on_drained()
        await node.publish("h:a", 1)
        await advance(4_000.0)
        assert len(client.transport.writes) == written
        assert session.statistics() == {"subscriptions": 0, "behind": 0, "waiting": 0, "backlog": 0}


class Breaking:
    """Makes a client's socket break during its next write."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.write = client.transport.write
        client.transport.write = self  # type: ignore[method-assign]

    def __call__(self, data: bytes) -> None:
        self.write(data)
        self.client.transport.disconnect()


@pytest.mark.parametrize("way", ["reply", "message", "end", "batches"])
@on_virtual_time
async def test_a_session_ends_where_a_write_breaks_the_socket(way: str) -> None:
    async with running_node() as node:
        client, other = await node.connect(), await node.connect()
        for each in (client, other):
            await each.subscribe("h:a")
            await each.subscribe("hp:a")
        Breaking(client)
        if way == "reply":
            client.send(Ping(50))
        elif way == "message":
            await node.publish("h:a", 1)
        elif way == "batches":
            await node.publish("h:a", *("x" * 30_000 for _ in range(60)))
        else:
            client.session.send(ServerPing())
            client.session.close(4005)
        await until_idle()
        assert set(node.hub.sessions) == {other.session.connection}
        assert node.released == [client.session.connection]
        await node.publish("h:a", "after")
        await until_idle()
        assert other.values()[-1] == "after"


# ---------------------------------------------------------------- heartbeat


@CODECS
@on_virtual_time
async def test_a_client_that_answers_no_ping_is_closed_and_one_that_sends_anything_is_not(
    codec: Codec,
) -> None:
    async with running_node(interval=25.0, grace=10.0) as node:
        dead, alive = await node.connect(codec), await node.connect(codec)
        busy = await node.connect(codec)
        for _ in range(10):
            await advance(5.0)
            busy.send(Ping(busy.next_id()))
            if alive.transport.messages[-1] == ServerPing():
                alive.send(Pong())
                await until_idle()
        assert dead.transport.closed == (4007, "heartbeat_timeout")
        assert (alive.transport.is_open, busy.transport.is_open) == (True, True)
        assert "ping" not in types(busy)
        assert node.heartbeat.statistics()["dead"] == 1


@on_virtual_time
async def test_a_session_has_a_record_statistics_and_a_repr() -> None:
    async with running_node() as node:
        client = await node.connect(user="ann")
        await client.subscribe("h:b")
        await client.subscribe("h:a")
        record = client.session.as_record()
        assert (record.connection, record.node) == (client.welcome.connection, "n1")
        assert record.channels == ["@ann", "h:a", "h:b"]
        assert record.since == node.wall()
        assert repr(client.session) == f"<Session {record.connection} connected 3 subscriptions>"
        assert isinstance(client.welcome.subs["@ann"], Subscribed)
