"""The push API from a backend: every command of the gateway, once whatever is lost, in threads and forks."""

import asyncio
import inspect
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fanway_client import FanwayError
from fanway_client._admin_calls import Call
from fanway_client.admin import AsyncFanwayAdmin, FanwayAdmin, mint_token
from joserfc import jwt
from joserfc.jwk import OctKey

from tests.clients.npm import PACKAGE
from tests.clients.python.answer_loser import AnswerLoser
from tests.clients.python.test_gateway import client, fresh, public, reached
from tests.e2e.gateway import KEY, SECRET, GatewayProcess

ARGUMENTS: Mapping[str, tuple[Any, ...]] = {
    "publish": ("c", 1),
    "broadcast": (["c"], 1),
    "notify": (["u"], 1),
    "batch": ([{"channel": "c", "data": 1}],),
    "disconnect": ("u",),
    "subscribe": ("u", "c"),
    "unsubscribe": ("u", "c"),
    "presence": ("c",),
    "history": ("c",),
    "clear_history": ("c",),
    "channels": (),
    "channel": ("c",),
    "user": ("u",),
    "nodes": (),
    "stats": (),
}
"""What each method of the clients is called with."""

FORKING = """
import os, sys
from fanway_client.admin import FanwayAdmin

admin = FanwayAdmin(*sys.argv[1:3])
admin.publish(sys.argv[3], "before")
child = os.fork()
who = "parent" if child else "child"
for n in range(50):
    admin.publish(sys.argv[3], [who, n])
if child:
    assert os.waitpid(child, 0)[1] == 0
admin.close()
"""


def internal(gateway: GatewayProcess) -> str:
    return f"http://127.0.0.1:{gateway.internal}"


def methods(kind: type) -> set[str]:
    functions = inspect.getmembers(kind, inspect.isfunction)
    return {name for name, _ in functions if not name.startswith("_")} - {"close", "aclose"}


def test_the_clients_have_the_same_methods() -> None:
    source = (PACKAGE / "src" / "admin.ts").read_text()
    (body,) = re.findall(r"^export class FanwayAdmin \{\n(.*?)^\}", source, re.DOTALL | re.MULTILINE)
    found = re.findall(r"^  (?:async )?(\w+)\(", body, re.MULTILINE)
    in_typescript = {re.sub(r"([A-Z])", r"_\1", name).lower() for name in found} - {"constructor"}
    assert methods(AsyncFanwayAdmin) == methods(FanwayAdmin) == in_typescript == set(ARGUMENTS)


class Recorder(FanwayAdmin):
    """Records calls instead of sending them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def _call(self, call: Call[Any]) -> Any:
        self.calls.append((call.method, call.path))


async def test_every_command_of_the_gateway_has_a_method(gateway: GatewayProcess) -> None:
    document = (await gateway.request("GET", "/openapi.json")).json()
    commands = {
        (method.upper(), path.replace("{channel}", "c").replace("{user}", "u"))
        for path, operations in document["paths"].items()
        for method in operations
        if path.startswith("/v1/")
    }
    recorder = Recorder()
    for name, arguments in ARGUMENTS.items():
        getattr(recorder, name)(*arguments)
    assert sorted(recorder.calls) == sorted(commands)


async def test_lookups(gateway: GatewayProcess) -> None:
    name, user = fresh(), "lookups|1"
    async with client(public(gateway), user) as fanway, AsyncFanwayAdmin(internal(gateway), KEY) as admin:
        fanway.connect()
        await reached(fanway, "connected")
        assert await admin.subscribe(user, name) == 1
        await admin.broadcast([name], "hello", tags={"lang": "en"}, acknowledge="stored")
        assert (await admin.channels(prefix=name))["channels"] == [{"channel": name, "subscribers": 1}]
        assert (await admin.channel(name))["history"] == 1
        assert name in (await admin.user(user))["connections"][0]["channels"]
        counts = await admin.presence(name, members=False)
        assert (counts["users"], "members" in counts) == (1, False)
        assert (await admin.presence(name, limit=1))["members"][0]["user"] == user
        (message,) = (await admin.history(name, reverse=True, limit=10))["messages"]
        assert (message["data"], message["tags"]) == ("hello", {"lang": "en"})
        await admin.clear_history(name)
        assert (await admin.history(name))["messages"] == []
        assert [node["connections"] >= 1 for node in await admin.nodes()] == [True]
        assert (await admin.stats())["nodes"] == 1


@pytest.mark.parametrize("fields", [{}, {"key": None}])
async def test_a_publish_whose_answers_get_lost_happens_once(gateway: GatewayProcess, fields: Any) -> None:
    one, two, three, many = fresh(), fresh(), fresh(), fresh()
    async with AnswerLoser.to(gateway.internal) as loser, AsyncFanwayAdmin(loser.url, KEY) as admin:
        loser.losses = 2
        assert (await admin.publish(one, 1, **fields))["replayed"] is True
        loser.losses = 1
        assert (await admin.broadcast([two], 1, **fields))[0]["replayed"] is True
        loser.losses = 1
        assert (await admin.notify([three.replace(":", "-")], 1, **fields))[0]["replayed"] is True
        loser.losses = 1
        assert (await admin.batch([{"channel": many, "data": 1, **fields}]))[0]["replayed"] is True
        for name in (one, two, many):
            assert len((await admin.history(name))["messages"]) == 1


async def test_the_same_without_an_event_loop(gateway: GatewayProcess) -> None:
    name = fresh()
    async with AnswerLoser.to(gateway.internal) as loser:

        def publish() -> None:
            with FanwayAdmin(loser.url, KEY) as admin:
                loser.losses = 2
                assert admin.publish(name, 1)["replayed"] is True
                assert len(admin.history(name)["messages"]) == 1

        with ThreadPoolExecutor(1) as pool:
            await asyncio.get_running_loop().run_in_executor(pool, publish)


async def test_a_disconnect_whose_answer_gets_lost_is_not_repeated(gateway: GatewayProcess) -> None:
    async with AnswerLoser.to(gateway.internal) as loser, AsyncFanwayAdmin(loser.url, KEY) as admin:
        loser.losses = 1
        with pytest.raises(FanwayError) as error:
            await admin.disconnect("nobody")
    assert error.value.code == "connection_lost"


async def test_a_call_that_fails_for_long_raises_the_last_error(gateway: GatewayProcess) -> None:
    async with (
        AnswerLoser.to(gateway.internal) as loser,
        AsyncFanwayAdmin(loser.url, KEY, retries=1) as admin,
    ):
        loser.losses = 2
        with pytest.raises(FanwayError) as error:
            await admin.publish(fresh(), 1)
    assert (error.value.code, loser.losses) == ("connection_lost", 0)


async def test_errors_of_the_gateway(gateway: GatewayProcess) -> None:
    async with AsyncFanwayAdmin(internal(gateway), "not the key") as admin:
        with pytest.raises(FanwayError) as error:
            await admin.stats()
    assert (error.value.code, error.value.retryable) == ("unauthorized", False)


def test_a_process_that_was_forked_has_connections_of_its_own(gateway: GatewayProcess) -> None:
    name = fresh()
    subprocess.run([sys.executable, "-c", FORKING, internal(gateway), KEY, name], check=True, timeout=60)
    with FanwayAdmin(internal(gateway), KEY) as admin:
        data = [message["data"] for message in admin.history(name, limit=1000)["messages"]]
    assert data[0] == "before"
    for who in ("parent", "child"):
        assert [each for each in data if each[0] == who] == [[who, n] for n in range(50)]


def test_one_that_nobody_closes_is_closed_at_the_end(gateway: GatewayProcess) -> None:
    script = "import sys\nfrom fanway_client.admin import FanwayAdmin\n"
    script += "admin = FanwayAdmin(*sys.argv[1:])\nadmin.stats()"
    command = [sys.executable, "-W", "error", "-c", script, internal(gateway), KEY]
    run = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert run.stderr == ""


def test_claims_of_a_token() -> None:
    token = mint_token(
        SECRET, "ann", ttl=60, info={"name": "Ann"}, channels=["news"], claims={"aud": "app"}, now=1_000.5
    )
    assert jwt.decode(token, OctKey.import_key(SECRET)).claims == {
        "aud": "app",
        "sub": "ann",
        "iat": 1_000,
        "exp": 1_060,
        "info": {"name": "Ann"},
        "channels": ["news"],
    }
