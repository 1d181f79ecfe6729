"""Personal channels of users with any name, from the token to the push API; with and without Redis."""

import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.broker.redis_server import running_redis
from tests.e2e.clients import Client
from tests.e2e.gateway import GatewayProcess, gateway_process, token

USERS = {
    "auth0|5f7c": "@auth0%7C5f7c",
    "acme/Anna Müller": "@acme%2FAnna%20M%C3%BCller",
    "100%7C": "@100%257C",
    "|" * 128: "@" + "%7C" * 128,
}


@pytest.fixture(scope="module", params=["memory", "redis"])
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("gateway")
    if request.param == "memory":
        with gateway_process(home, CHANNELS__DEFAULT__HISTORY="10") as running:
            yield running
        return
    with (
        running_redis(home) as redis,
        gateway_process(
            home,
            CHANNELS__DEFAULT__HISTORY="10",
            BROKER__KIND="redis",
            BROKER__URL=redis.url,
            BROKER__SHARDS_PER_SERVER="4",
        ) as running,
    ):
        yield running


@pytest.mark.parametrize("user", USERS)
async def test_every_user_has_a_personal_channel_that_is_notified_and_resumed(
    gateway: GatewayProcess, user: str
) -> None:
    channel, path = USERS[user], f"/v1/users/{quote(user, safe='')}"
    jwt = token(user, now=time.time())
    async with Client.open(gateway.public, token=jwt) as client:
        assert (client.connected["user"], list(client.connected["subs"])) == (user, [channel])
        answer = await gateway.request("POST", "/v1/notify", {"users": [user], "data": 1})
        assert answer.json()["results"][0]["channel"] == channel
        received = await client.next_push("message")
        assert (received["channel"], received["data"]) == (channel, 1)
        (connection,) = (await gateway.request("GET", path)).json()["connections"]
        assert connection["channels"] == [channel]
        history = f"/v1/channels/{quote(channel, safe='')}/history"
        assert [each["data"] for each in (await gateway.request("GET", history)).json()["messages"]] == [1]
    await gateway.request("POST", "/v1/publish", {"channel": channel, "data": 2})
    subs = {channel: {"since": received["message"]}}
    async with Client.open(gateway.public, token=jwt, subs=subs) as client:
        resumed = client.connected["subs"][channel]
        assert (resumed["recovered"], [each["data"] for each in resumed["messages"]]) == (True, [2])
        assert (await gateway.request("POST", f"{path}/disconnect", {})).json() == {"connections": 1}
        assert (await client.expect_close()).code == 4005


async def test_nobody_else_and_no_other_spelling_reaches_a_personal_channel(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, token=token("auth0", now=time.time())) as client:
        denied = await client.call("subscribe", channel="@auth0%7C5f7c")
        assert denied["code"] == "permission_denied"
        for spelling in ("@auth0|5f7c", "@auth0%7c5f7c", "@%61uth0%7C5f7c"):
            assert (await client.call("subscribe", channel=spelling))["code"] == "bad_request"
            answer = await gateway.request("POST", "/v1/publish", {"channel": spelling, "data": 1})
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_request")
