"""The keys that scripts touch: all have our prefix; docs/redis.md lists those that are not declared."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from gateway.broker.base import UserCommand
from gateway.broker.redis import Credentials
from gateway.broker.redis.keys import Keys, shard_of
from gateway.broker.redis.scripts.registry import SCRIPTS
from protocol.messages import Member
from tests.broker.contract_machine import until_available
from tests.broker.recording_node import publish
from tests.broker.redis_cluster import running_cluster
from tests.broker.redis_fleet import OPTIONS, Fleet, eventually
from tests.broker.redis_server import RedisServer, running_redis
from tests.broker.test_redis_nodes import LONG
from tests.docs.pages import ROOT

USER, PASSWORD = "gateway", "a-password"
RIGHTS = ("~fanway:*", "+@all", "-@admin", "-@dangerous", "+info", "+cluster|slots")

NAMES = {script.digest: script.name for script in SCRIPTS}
LARGE = "x" * 5_000


async def use_every_script(fleet: Fleet, server: RedisServer, keys: Keys) -> None:
    """Have nodes call every script, each in all of its variants that touch other keys.

    *server* has the shard of `room`, whose keys are *keys*.
    """

    def bytes_in_inboxes() -> int:
        fields = server.execute("HGETALL", keys.state).items()
        return sum(int(value) for name, value in fields if name.startswith(b"in:"))

    def leases() -> Any:
        return server.execute("ZRANGE", keys.nodes, 0, -1, "WITHSCORES")

    one, two = await fleet.launch(), await fleet.launch()
    for each in (one, two):
        await each.broker.subscribe("room", LONG)
        await each.broker.user_connected("ann")
        await each.broker.subscribe("short", None)
    await publish(one.broker, "room", "keyed", key="k", retention=LONG)
    await publish(one.broker, "room", LARGE, retention=LONG)
    await publish(one.broker, "room", "small", retention=LONG)
    await two.node.messages(3)
    await eventually(lambda: bytes_in_inboxes() == 0)
    await one.broker.read("room")
    # The connection moves from one node to the other.
    for each in (one, two):
        await each.broker.join("room", Member("c1", "ann", None))
    await two.broker.join("room", Member("c2", "bob", None))
    await one.broker.count("room")
    await one.broker.connections("ann")
    await one.broker.subscribed_channels("", after="", limit=10)
    await one.broker.nodes()
    await one.broker.send_user_command(UserCommand("ann", "disconnect", "", 4005, "", frozenset()))
    await one.broker.unsubscribe("short")
    await one.broker.join("room", Member("c3", "ann", None))
    await one.broker.leave("room", "c3")
    await one.broker.clear("room")
    await two.broker.join("room", Member("c4", "cid", None))
    await two.broker.leave("room", "c4", grace=0.05)
    await two.broker.close()  # reaped with its routes and members
    fleet.members.remove(two)
    await eventually(lambda: server.execute("ZCARD", keys.graces) == 0)  # the other node ends the grace
    incarnations = one.broker.statistics()["incarnations"]
    server.execute("DEL", keys.nodes)
    await eventually(lambda: one.broker.statistics()["incarnations"] > incarnations)
    await until_available(lambda: publish(one.broker, "room", "after", retention=LONG))
    # Routes are audited after each renewal of the lease, before later calls.
    for _ in range(2):
        before = leases()
        await eventually(partial(lambda before: leases() != before, before))
    await until_available(lambda: one.broker.clear("room"))


@contextlib.asynccontextmanager
async def monitored(server: RedisServer) -> AsyncIterator[list[tuple[str, list[str]]]]:
    """Yield a list, which has all commands at the end: who sent each (`lua`: a script), and its arguments."""
    commands: list[tuple[str, list[str]]] = []
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"MONITOR\r\n")
    assert await reader.readline() == b"+OK\r\n"
    try:
        yield commands
        server.execute("ECHO", "the end")
        while True:
            line = (await reader.readline()).decode()
            sender = re.search(r"\[\d+ ([^\]]+)\]", line)
            assert sender is not None
            quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
            arguments = [each.encode().decode("unicode_escape") for each in quoted]
            if arguments[0] == "ECHO":
                return
            commands.append((sender[1], arguments))
    finally:
        writer.close()
        await writer.wait_closed()


def keys_of(server: RedisServer, command: list[str]) -> list[str]:
    """Return the keys in *command*, as Redis itself finds them."""
    with server.client() as client:
        client.response_callbacks.clear()  # redis-py parses the answers to other subcommands of COMMAND
        try:
            return [key.decode() for key in client.execute_command("COMMAND", "GETKEYS", *command)]
        except redis.ResponseError:
            return []  # a command without keys


def undeclared_keys(server: RedisServer, commands: list[tuple[str, list[str]]]) -> dict[str, set[str]]:
    """Return the beginnings of the keys that each script touched without declaring them."""
    found: dict[str, set[str]] = {name: set() for name in NAMES.values()}
    seen: set[str] = set()
    script, declared, base = "", set[str](), Keys("fanway", 0).base
    for sender, arguments in commands:
        if arguments[0].upper() == "EVALSHA":
            script = NAMES[arguments[1]]
            seen.add(script)
            declared = set(arguments[3 : 3 + int(arguments[2])])
        elif sender == "lua":
            for key in keys_of(server, arguments):
                assert key.startswith("fanway:")
                if key not in declared:
                    assert key.startswith(base), "in the slot of the others"
                    found[script].add(key.removeprefix(base).partition(":")[0] + ":")
    assert seen == set(NAMES.values()), "otherwise this test does not call every script"
    return {name: keys for name, keys in found.items() if keys}


def documented_keys() -> dict[str, set[str]]:
    """Return what the table of docs/redis.md says."""
    text = (ROOT / "docs" / "redis.md").read_text()
    section = text.split("### Keys that scripts do not declare\n")[1].split("\n## ")[0].split("\n### ")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]+) \|", section, re.MULTILINE)
    documented: dict[str, set[str]] = {}
    for names, keys in rows:
        for name in re.findall(r"`(\w+)`", names):
            documented[name] = set(re.findall(r"`(\w+:)<", keys))
    return documented


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        server.execute("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *RIGHTS)
        yield server


async def test_scripts_touch_only_our_keys_and_the_page_lists_those_not_declared(server: RedisServer) -> None:
    async with (
        monitored(server) as commands,
        Fleet(server.url, credentials=Credentials(USER, PASSWORD)) as fleet,
    ):
        await use_every_script(fleet, server, Keys("fanway", 0))
    assert undeclared_keys(server, commands) == documented_keys()
    assert server.execute("ACL", "LOG") == []


async def test_every_script_runs_on_a_cluster_under_an_acl_of_our_prefix(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        cluster.execute("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *RIGHTS)

        keys = Keys("fanway", shard_of("room", OPTIONS.cluster_shards), cluster=True)
        credentials = Credentials(USER, PASSWORD)
        async with Fleet(*cluster.urls, cluster=True, credentials=credentials) as fleet:
            await use_every_script(fleet, cluster.primary_of(keys.state), keys)
        assert [node.execute("ACL", "LOG") for node in cluster.primaries] == [[], [], []]
