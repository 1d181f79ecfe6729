"""Authentication and permissions, from the configuration to the close code."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.access.keys import private_key
from gateway.access.tokens import mint
from tests.e2e.clients import Client, Closed, RawConnection, upgrade_request
from tests.e2e.gateway import FANWAY, SECRET, GatewayProcess, gateway_process, publish, token
from tests.gateway.access.signing import PRIVATE

CONFIG = """
[push]
keys = ["dev"]

[channels.open]
subscribe = "anyone"
publish = "anyone"

[channels.members]
subscribe = "authenticated"
publish = "authenticated"
presence = true

[channels.private]
subscribe = "token"
publish = "subscribers"

[channels.alerts]
subscribe = "nobody"

[channels]
strict = true
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway outside dev mode: it has a secret and requires tokens."""
    with gateway_process(tmp_path_factory.mktemp("gateway"), CONFIG, dev=False) as gateway:
        yield gateway


def issued(user: str, **claims: Any) -> str:
    return token(user, now=time.time(), **claims)


def minted(home: Path) -> str:
    """Return what `fanway token` prints."""
    environment = {**os.environ, "FANWAY_AUTH__SECRET": SECRET}
    command = [FANWAY, "token", "--user", "alice", "--ttl", "5m", "--info", '{"name": "Alice"}']
    printed = subprocess.run(command, env=environment, cwd=home, check=True, capture_output=True, text=True)
    return printed.stdout.strip()


async def refusal(gateway: GatewayProcess, **connect: Any) -> tuple[str, Closed]:
    """Return the error that answers a `connect` with these fields, and how the connection ends."""
    with await RawConnection.websocket(gateway.public) as client:
        error = await client.call(type="connect", id=1, **connect)
        assert (error["type"], error["id"]) == ("error", 1), error
        return error["code"], await client.expect_close()


# ---------------------------------------------------------------- connection tokens


async def test_token_names_the_user_of_a_connection(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, token=issued("alice", ttl=60, info={"name": "Alice"})) as client:
        assert client.connected["user"] == "alice"
        assert 50 < client.connected["expires_in"] <= 60
        await client.call("subscribe", channel="members:lobby")
        present = await client.call("presence", channel="members:lobby", members=True)
    assert [(each["user"], each["info"]) for each in present["members"]] == [("alice", {"name": "Alice"})]


async def test_gateway_accepts_tokens_of_the_command_line(gateway: GatewayProcess, tmp_path: Path) -> None:
    async with Client.open(gateway.public, token=minted(tmp_path)) as client:
        assert client.connected["user"] == "alice"
        assert 290 < client.connected["expires_in"] <= 300


async def test_a_token_may_come_in_the_authorization_header(gateway: GatewayProcess) -> None:
    with await RawConnection.open(gateway.public) as client:
        await client.send(upgrade_request(authorization=f"Bearer {issued('from-header')}"))
        assert (await client.read_response()).status == 101
        connected = await client.call(type="connect", id=1)
    assert (connected["type"], connected["user"]) == ("connected", "from-header")


async def test_token_of_connect_takes_precedence_over_the_header(gateway: GatewayProcess) -> None:
    with await RawConnection.open(gateway.public) as client:
        await client.send(upgrade_request(authorization=f"Bearer {issued('from-header')}"))
        assert (await client.read_response()).status == 101
        assert (await client.call(type="connect", id=1, token=issued("from-connect")))[
            "user"
        ] == "from-connect"


async def test_token_in_the_url_is_ignored(gateway: GatewayProcess) -> None:
    with await RawConnection.websocket(gateway.public, path=f"/v1/ws?token={issued('alice')}") as client:
        assert (await client.call(type="connect", id=1))["code"] == "unauthorized"
        assert (await client.expect_close()).code == 4003
    assert "token=" not in gateway.stderr


async def test_missing_or_invalid_token_is_closed_with_4003(gateway: GatewayProcess) -> None:
    foreign = mint(private_key(PRIVATE["EdDSA"]), user="alice", ttl=60, now=time.time())
    header, payload, signature = issued("alice").split(".")
    for bad in ("no.to.ken", foreign, f"{header}.{payload}.{signature[::-1]}", f"{header}.{payload}."):
        code, closed = await refusal(gateway, token=bad)
        assert (code, closed.code) == ("unauthorized", 4003), bad
    code, closed = await refusal(gateway)
    assert (code, closed.code) == ("unauthorized", 4003)
    code, closed = await refusal(gateway, token=issued("alice", channel="private:x"))
    assert (code, closed.code) == ("unauthorized", 4003)


async def test_expired_token_is_closed_with_4004(gateway: GatewayProcess) -> None:
    old = token("alice", now=time.time() - 3_600, ttl=1_800)
    code, closed = await refusal(gateway, token=old)
    assert (code, closed.code) == ("token_expired", 4004)


async def test_a_token_is_refreshed_in_time_or_the_connection_ends(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, token=issued("alice", ttl=3)) as client:
        assert 0 < (await client.next_push("expiring"))["in"] < 3
        refused = await client.call("refresh", token=issued("mallory"))
        assert refused["code"] == "unauthorized"
        refreshed = await client.call("refresh", token=issued("alice", ttl=5))
        assert 0 < refreshed["expires_in"] <= 5
        # The first token's end passes unnoticed: the next word is about the second one's.
        await client.next_push("expiring")
        assert (await client.expect_close()).code == 4004


async def test_a_refresh_ends_what_the_new_token_does_not_grant_and_subscribes_to_what_it_adds(
    gateway: GatewayProcess,
) -> None:
    first, second = ["alerts:1", "alerts:2"], ["alerts:2", "alerts:3"]
    async with Client.open(gateway.public, token=issued("alice", channels=first)) as client:
        assert list(client.connected["subs"]) == ["@alice", *first]
        await client.call("refresh", token=issued("alice", channels=second))
        ended = await client.next_push("unsubscribed")
        assert (ended["channel"], ended["code"]) == ("alerts:1", "permission_denied")
        assert (await client.next_push("subscribed"))["channel"] == "alerts:3"
        for channel in (*first, "alerts:3"):
            await publish(gateway.internal, channel, channel)
        assert [(await client.next_push("message"))["data"] for _ in second] == second
        assert (await client.call("subscribe", channel="alerts:1"))["code"] == "permission_denied"


async def test_what_the_push_api_unsubscribed_cannot_be_subscribed_with_the_same_token(
    gateway: GatewayProcess,
) -> None:
    claimed = issued("alice", channels=["alerts:1"])
    async with Client.open(gateway.public, token=claimed) as client:
        for action, push in (("unsubscribe", "unsubscribed"), ("subscribe", "subscribed")):
            path, body = f"/v1/users/alice/{action}", {"channel": "alerts:1"}
            assert (await gateway.request("POST", path, body)).json() == {"connections": 1}
            assert (await client.next_push(push))["channel"] == "alerts:1"
            if action == "unsubscribe":
                await client.call("refresh", token=claimed)
                denied = await client.call("subscribe", channel="alerts:1")
                assert denied["code"] == "permission_denied"


async def test_audience_and_issuer_must_be_ours(tmp_path: Path) -> None:
    settings = {"AUTH__AUDIENCE": "fanway", "AUTH__ISSUER": "https://id.example.com"}
    with gateway_process(tmp_path, CONFIG, dev=False, **settings) as gateway:
        ours = {"audience": "fanway", "issuer": "https://id.example.com"}
        async with Client.open(gateway.public, token=issued("alice", **ours)) as client:
            assert client.connected["user"] == "alice"
        for name in ours:
            code, closed = await refusal(gateway, token=issued("alice", **{**ours, name: "else"}))
            assert (code, closed.code) == ("unauthorized", 4003)


# ---------------------------------------------------------------- namespaces


async def test_namespaces_decide_who_subscribes_and_publishes(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, token=issued("alice")) as client:

        async def answer(type: str, channel: str, **fields: Any) -> str:
            reply = await client.call(type, channel=channel, **fields)
            return str(reply.get("code", reply["type"]))

        assert await answer("publish", "open:air", data=1) == "published"
        assert await answer("publish", "members:lobby", data=1) == "published"
        assert await answer("subscribe", "private:room") == "permission_denied"
        assert await answer("publish", "private:room", data=1) == "permission_denied"
        assert await answer("subscribe", "alerts:all") == "permission_denied"
        assert await answer("subscribe", "unheard-of:channel") == "unknown_channel"
        assert await answer("subscribe", "no-namespace") == "subscribed"
        assert await answer("publish", "no-namespace", data=1) == "permission_denied"


async def test_channel_token_permits_one_channel_for_one_user(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, token=issued("alice")) as client:
        for wrong in (issued("alice", channel="private:other"), issued("bob", channel="private:room")):
            reply = await client.call("subscribe", channel="private:room", token=wrong)
            assert reply["code"] == "permission_denied"
        right = issued("alice", channel="private:room")
        assert (await client.call("subscribe", channel="private:room", token=right))["type"] == "subscribed"
        assert (await client.call("publish", channel="private:room", data=1))["type"] == "published"


async def test_a_subscription_ends_with_its_channel_token(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, token=issued("alice")) as client:
        passing = issued("alice", channel="private:brief", ttl=3)
        await client.call("subscribe", channel="private:brief", token=passing)
        ended = await client.next_push("unsubscribed")
        assert (ended["channel"], ended["code"]) == ("private:brief", "token_expired")
        assert (await client.call("publish", channel="private:brief", data=1))["code"] == "permission_denied"


async def test_the_backend_publishes_where_clients_may_not(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, token=issued("alice", channels=["alerts:all"])) as client:
        await publish(gateway.internal, "alerts:all", "fire")
        assert (await client.next_push("message"))["data"] == "fire"
        assert (await client.call("publish", channel="alerts:all", data=1))["code"] == "permission_denied"


async def test_anonymous_users_may_subscribe_to_public_channels(tmp_path: Path) -> None:
    with gateway_process(tmp_path, CONFIG, dev=False, AUTH__ANONYMOUS="true") as gateway:
        async with Client.open(gateway.public) as client:
            assert (client.connected["user"], client.connected["subs"]) == ("", {})
            assert (await client.call("subscribe", channel="open:air"))["type"] == "subscribed"
            denied = await client.call("subscribe", channel="members:lobby")
            assert denied["code"] == "permission_denied"
        code, closed = await refusal(gateway, token="no.to.ken")
        assert (code, closed.code) == ("unauthorized", 4003)


# ---------------------------------------------------------------- the environment


async def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    settings = {
        "NODE__NAME": "from-the-environment",
        "LIMITS__REWIND": "7",
        "HEARTBEAT__INTERVAL": "90s",
        "CHANNELS__OPEN__HISTORY": "5",
        "PUSH__KEYS": "dev,another",
    }
    with gateway_process(tmp_path, CONFIG, dev=False, **settings) as gateway:
        async with Client.open(gateway.public, token=issued("alice"), subs={"open:air": {}}) as client:
            assert client.connected["node"] == "from-the-environment"
            assert client.connected["limits"]["rewind"] == 7
            assert client.connected["heartbeat"] == 90
            assert client.connected["subs"]["open:air"]["position"].startswith("0-")


def test_without_keys_for_tokens_and_backends_it_does_not_start(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FANWAY_")}
    command = [FANWAY, "serve", "--port", "0", "--internal-port", "0"]
    ended = subprocess.run(command, env=clean, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "auth.secret: missing" in ended.stderr
    assert "push.keys: missing" in ended.stderr
