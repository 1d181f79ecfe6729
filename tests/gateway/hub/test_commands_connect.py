"""The connect command: authentication, limits, and the channels that it restores."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.access.admission import AdmissionLimits
from gateway.hub.services import SessionLimits
from protocol.messages import (
    Connect,
    Connected,
    Error,
    Resume,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from protocol.position import MessageId
from tests.gateway.node import RULES, running_node, values_of
from tests.gateway.virtual_time import advance, on_virtual_time


def results(reply: Connected) -> dict[str, str]:
    """Return the result of each channel of a connect: `ok`, or the code of its error."""
    return {name: sub.code if isinstance(sub, Error) else "ok" for name, sub in reply.subs.items()}


# ---------------------------------------------------------------- connect


@on_virtual_time
async def test_connected_has_user_node_heartbeat_expiry_and_limits() -> None:
    limits = SessionLimits(channels=7)
    async with running_node(limits=limits) as node:
        client = node.open()
        reply = await client.connect(Connect(9, token=node.token("ann", ttl=60.0)))
        assert reply == Connected(
            9,
            client.session.connection,
            "ann",
            "n1",
            25.0,
            60.0,
            limits.as_reply(),
            {"@ann": Subscribed("@ann")},
        )


@on_virtual_time
async def test_each_channel_of_a_connect_has_its_own_result() -> None:
    async with running_node(strict=True, limits=SessionLimits(channels=5)) as node:
        receipts = [await node.publish("h:a", value) for value in (1, 2, 3)]
        ids = [receipt.id for receipt in receipts]
        client = node.open()
        subs = {
            "h:a": Resume(since=ids[0]),
            "h:b": Resume(since=MessageId(4, "gone")),
            "nobody:a": Resume(),
            "nobody:b": Resume(),
            "unheard:of": Resume(),
            "@bob": Resume(),
            "token:a": Resume(token="nonsense"),
            "h:c": Resume(rewind=5),
            "h:d": Resume(),
            "a b": Resume(fault="expected a channel name"),
        }
        token = node.token("ann", channels=["nobody:a", "h:e"])
        reply = await client.connect(Connect(1, token=token, subs=subs))
        assert results(reply) == {
            "@ann": "ok",
            "nobody:a": "ok",
            "h:e": "ok",
            "h:a": "ok",
            "h:b": "ok",
            "nobody:b": "limit_exceeded",
            "unheard:of": "limit_exceeded",
            "@bob": "limit_exceeded",
            "token:a": "limit_exceeded",
            "h:c": "limit_exceeded",
            "h:d": "limit_exceeded",
            "a b": "bad_request",
        }
        resumed, lost = reply.subs["h:a"], reply.subs["h:b"]
        assert isinstance(resumed, Subscribed)
        assert isinstance(lost, Subscribed)
        assert (values_of(resumed.messages), resumed.recovered, resumed.position) == ([2, 3], True, ids[-1])
        assert (list(lost.messages), lost.recovered) == ([], False)
        more = node.open()
        subs = {name: subs[name] for name in ("nobody:b", "unheard:of", "@bob", "token:a", "h:c")}
        assert results(await more.connect(Connect(1, subs=subs))) == {
            "nobody:b": "permission_denied",
            "unheard:of": "unknown_channel",
            "@bob": "permission_denied",
            "token:a": "unauthorized",
            "h:c": "ok",
        }


@on_virtual_time
async def test_a_rejected_channel_uses_up_no_subscription() -> None:
    async with running_node(limits=SessionLimits(channels=2)) as node:
        client = node.open()
        subs = dict.fromkeys(("nobody:a", "nobody:b", "h:a", "nobody:c", "h:b"), Resume())
        reply = await client.connect(Connect(1, subs=subs))
        assert [name for name, result in results(reply).items() if result == "ok"] == ["h:a", "h:b"]
        assert (await client.request_rejected(Subscribe(2, "h:c"))).code == "limit_exceeded"
        await client.request(Unsubscribe(3, "h:a"))
        await client.subscribe("h:c")


@on_virtual_time
async def test_a_personal_channel_and_those_of_the_token_are_restored_like_others() -> None:
    async with running_node(rules={**RULES, "default": replace(RULES["h"], namespace="default")}) as node:
        first = await node.publish("@ann", 1)
        await node.publish("@ann", 2)
        client = node.open()
        token = node.token("ann", channels=["@ann", "h:a"])
        reply = await client.connect(Connect(1, token=token, subs={"@ann": Resume(since=first.id)}))
        assert results(reply) == {"@ann": "ok", "h:a": "ok"}
        personal = reply.subs["@ann"]
        assert isinstance(personal, Subscribed)
        assert (values_of(personal.messages), personal.recovered) == ([2], True)


@on_virtual_time
async def test_a_connect_reply_holds_half_an_outbox_and_catch_up_sends_the_rest() -> None:
    async with running_node(limits=SessionLimits(outbox=20_000)) as node:
        begun = {}
        for channel in ("h:a", "h:b", "h:c"):
            begun[channel] = (await node.publish(channel, "begun")).id
            await node.publish(channel, *([number, "x" * 1_000] for number in range(6)))
        client = node.open()
        subs = {channel: Resume(since=id) for channel, id in begun.items()}
        reply = await client.connect(Connect(1, subs=subs))
        replied = {
            channel: [value[0] for value in values_of(sub.messages)]
            for channel, sub in reply.subs.items()
            if isinstance(sub, Subscribed) and sub.recovered
        }
        assert replied == {"h:a": [0, 1, 2, 3, 4, 5], "h:b": [0, 1], "h:c": []}
        assert len(client.transport.writes[0]) < 20_000
        for channel, in_reply in replied.items():
            assert in_reply + [value[0] for value in client.values(channel)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("token", "code", "close"),
    [
        ("nonsense", "unauthorized", 4003),
        (None, "unauthorized", 4003),
        ("expired", "token_expired", 4004),
    ],
)
@on_virtual_time
async def test_a_connect_with_an_invalid_token_is_rejected_and_closed(
    token: str | None, code: str, close: int
) -> None:
    async with running_node(anonymous=False) as node:
        client = node.open()
        given = node.token("ann", ttl=-1.0) if token == "expired" else token
        error = await client.request_rejected(Connect(1, token=given))
        assert error.code == code
        assert client.transport.closed is not None
        assert client.transport.closed[0] == close
        assert node.hub.sessions == {}


@on_virtual_time
async def test_the_token_of_the_upgrade_request_is_used() -> None:
    async with running_node(anonymous=False) as node:
        client = node.open(header=node.token("ann"))
        assert (await client.connect(Connect(1))).user == "ann"
        both = node.open(header=node.token("ann"))
        assert (await both.connect(Connect(1, token=node.token("bob")))).user == "bob"


@on_virtual_time
async def test_without_keys_only_anonymous_connections_are_possible() -> None:
    async with running_node(verifier=None) as node:
        client = node.open()
        error = await client.request_rejected(Connect(1, token=node.token("ann")))
        assert error.code == "unauthorized"
        nobody = await node.connect()
        assert nobody.welcome.user == ""
        assert (await nobody.request_rejected(Subscribe(2, "token:a", token="x"))).code == "permission_denied"


@pytest.mark.parametrize("policy", ["refuse", "replace"])
@on_virtual_time
async def test_a_connection_above_per_user_is_rejected_or_replaces_the_oldest(policy: str) -> None:
    bound = AdmissionLimits(per_user=2)
    async with running_node(admission=bound, per_user_policy=policy) as node:
        clients = []
        for _ in range(2):
            clients.append(await node.connect(user="ann"))
            await advance(1.0)
        third = node.open()
        reply = await third.request(Connect(1, token=node.token("ann")))
        if policy == "refuse":
            assert reply.code == "limit_exceeded"
            assert third.transport.closed is not None
            assert third.transport.closed[0] == 4010
            assert all(client.transport.is_open for client in clients)
            clients[0].disconnect()
            await node.connect(user="ann")
        else:
            assert isinstance(reply, Connected)
            assert clients[0].transport.closed == (4012, "replaced")
            assert clients[1].transport.is_open
        assert len(node.hub.users["ann"]) == 2


@on_virtual_time
async def test_without_a_connection_to_replace_the_new_one_is_rejected() -> None:
    async with running_node(admission=AdmissionLimits(per_user=1), per_user_policy="replace") as node:
        slot = node.admission.admit_client("ann")
        client = node.open()
        assert (await client.request_rejected(Connect(1, token=node.token("ann")))).code == "limit_exceeded"
        slot.release()  # type: ignore[union-attr]
