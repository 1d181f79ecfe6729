"""What else an application asks of its client: options, numbers, the log, another loop, another user."""

import asyncio
import logging
from typing import Any

import pytest
import uvloop
from fanway_client import Fanway, FanwayError, Gap
from fanway_client.admin import mint_token
from fanway_client.sync import FanwaySync

from tests.clients.python.proxy import Proxy
from tests.clients.python.scenario import settle
from tests.clients.python.test_gateway import admin, client, fresh, live, public, reached
from tests.clients.python.test_handles import World
from tests.e2e.gateway import SECRET, GatewayProcess

# ---------------------------------------------------------------- arguments

BAD_URLS = [
    "example.com",
    "ftp://example.com",
    "https://",
    "ws://:8000/v1/ws",
    "ws://host:99999",
    "ws://host:port",
    "ws://[::1",
    "",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="url: expected https://host") as raised:
        Fanway(["ws://good", url])
    assert repr(url) in str(raised.value)


def test_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="url: expected at least one"):
        Fanway([])


async def test_options_that_make_no_sense_are_refused() -> None:
    world = World()
    with pytest.raises(ValueError, match="buffer: expected at least 1, not 0"):
        world.fanway.channel("news", buffer=0)
    with pytest.raises(ValueError, match="rewind: expected 0 or more, not -1"):
        world.fanway.channel("news", rewind=-1)


# ---------------------------------------------------------------- slow loops


async def test_a_slow_loop_ends_with_overflow_after_what_waits() -> None:
    world = World()
    messages = world.fanway.channel("news", buffer=2).messages()
    await settle()
    world.publish(1, 2, 3)
    await settle()
    assert [(await anext(messages)).data, (await anext(messages)).data] == [1, 2]
    with pytest.raises(FanwayError, match="overflow"):
        await anext(messages)
    with pytest.raises(StopAsyncIteration):
        await anext(messages)


async def test_a_slow_loop_that_drops_the_oldest_tells_a_gap_once_until_it_is_up_to_date() -> None:
    world, gaps = World(), list[Gap]()
    channel = world.fanway.channel("news", buffer=2, on_slow="drop_oldest")
    channel.on("gap", gaps.append)
    messages = channel.messages()
    await settle()
    world.publish(1, 2, 3, 4)
    await settle()
    assert (messages.dropped, messages.waiting, gaps) == (2, 2, [Gap("news", "overflow")])
    assert [(await anext(messages)).data, (await anext(messages)).data] == [3, 4]
    world.publish(5)
    await settle()
    assert (await anext(messages)).data == 5
    world.publish(6, 7, 8)
    await settle()
    assert (messages.dropped, len(gaps)) == (3, 2)


async def test_another_loop_is_not_slowed_by_a_slow_one() -> None:
    world = World()
    slow = world.fanway.channel("news", buffer=1, on_slow="drop_oldest").messages()
    fast = world.fanway.channel("news").messages()
    await settle()
    world.publish(1, 2, 3)
    await settle()
    assert [(await anext(fast)).data for _ in range(3)] == [1, 2, 3]
    assert (await anext(slow)).data == 3
    await slow.aclose()
    await fast.aclose()


# ---------------------------------------------------------------- numbers and the log


async def test_the_numbers_of_a_client() -> None:
    world = World()
    channel = world.fanway.channel("news")
    messages = channel.messages()
    assert world.fanway.stats().state == "connecting"
    await settle()
    world.publish(1, 2)
    await settle()
    await anext(messages)
    world.gateway.end(1006, delivered=True)
    waiting = world.fanway.stats()
    assert (waiting.state, waiting.attempt, waiting.connects) == ("waiting", 1, 1)
    await world.environment.advance(1_000)
    publishing = asyncio.create_task(channel.publish(3))
    await asyncio.sleep(0)
    stats = world.fanway.stats()
    assert (stats.state, stats.connects, stats.publishing) == ("connected", 2, 1)
    assert (stats.sent, stats.received) == (3, 4)
    news = stats.channels["news"]
    assert (news.state, news.delivered, news.waiting) == ("live", 2, 1)
    assert news.position == world.gateway.logs["news"].ids[1]
    await publishing


async def test_the_log_has_messages_without_tokens_and_payloads(caplog: pytest.LogCaptureFixture) -> None:
    secret = "do-not-log-this"
    world = World(
        get_token=lambda _: f"{secret}-token", get_channel_tokens=lambda names: dict.fromkeys(names, secret)
    )
    with caplog.at_level(logging.DEBUG, "fanway_client"):
        told = world.listen(token=True)
        await settle()
        await world.fanway.channel("news").publish({"text": secret}, key=secret)
        await settle()
        world.gateway.end(1006, delivered=True)
        await world.environment.advance(1_000)
    assert told == [{"text": secret}]
    assert secret not in caplog.text
    for expected in (
        "opening ws://gateway/v1/ws",
        "'type': 'connect', 'id': 1, 'token': '…'",
        "state waiting (code 1006",
    ):
        assert expected in caplog.text


async def test_the_log_has_no_password_of_an_address(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "fanway_client"):
        async with Fanway("ws://ann:hidden@127.0.0.1:9/v1/ws?token=hidden") as fanway:
            fanway.connect()
            assert repr(fanway) == "<Fanway ws://127.0.0.1:9/v1/ws connecting>"
    assert "opening ws://127.0.0.1:9/v1/ws" in caplog.text
    assert "hidden" not in caplog.text


# ---------------------------------------------------------------- beside a real gateway


async def test_sign_out_and_sign_in_as_another_user(gateway: GatewayProcess) -> None:
    name, users = fresh(), list[str]()
    async with Fanway(public(gateway)) as fanway:
        channel = fanway.channel(name)
        for user in ("ann", "ben"):
            fanway.set_token(mint_token(SECRET, user))
            fanway.connect()
            channel.on("message", lambda message: users.append(message.sender.user))
            await live(channel)
            assert fanway.info is not None
            assert fanway.info.user == user
            await channel.publish(user)
            channel.close()
            await fanway.close()
    assert users == ["ann", "ben"]


async def test_the_next_endpoint_where_one_does_not_answer(gateway: GatewayProcess) -> None:
    async with client(["ws://127.0.0.1:9/v1/ws", public(gateway)]) as fanway:
        fanway.connect()
        await reached(fanway, "connected")
        assert fanway.stats().attempt == 0


def test_under_uvloop(gateway: GatewayProcess) -> None:
    name = fresh()

    async def main() -> list[Any]:
        async with (
            Proxy.to(gateway.public) as proxy,
            client(proxy.url) as fanway,
            admin(gateway) as backend,
            fanway.channel(name).messages() as messages,
        ):
            assert type(asyncio.get_running_loop()) is uvloop.Loop
            await live(fanway.channel(name))
            await backend.publish(name, 1)
            taken = [(await anext(messages)).data]
            proxy.cut()
            await backend.publish(name, 2)
            taken.append((await anext(messages)).data)
            await fanway.channel(name).publish(3)
            taken.append((await anext(messages)).data)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return taken

    assert uvloop.run(main()) == [1, 2, 3]


def test_the_synchronous_client_has_states_numbers_and_tokens(gateway: GatewayProcess) -> None:
    with FanwaySync(public(gateway)) as fanway:
        fanway.set_token(mint_token(SECRET, "ann"))
        states: list[str] = []
        fanway.on("state", lambda change: states.append(change.state))
        fanway.channel(fresh()).publish(1)
        assert fanway.stats().connects == 1
        assert states == ["connecting", "connected"]
