"""The Python client beside a real gateway, over real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from fanway_client import (
    Channel,
    Fanway,
    FanwayError,
    Gap,
    LivePresence,
    LoadRequest,
    UnauthorizedError,
)
from fanway_client._protocol.client import BackoffBounds
from fanway_client.admin import AsyncFanwayAdmin, FanwayAdmin, mint_token
from fanway_client.sync import FanwaySync

from tests.clients.python.proxy import Proxy
from tests.e2e.gateway import KEY, SECRET, GatewayProcess

FAST = BackoffBounds(first_seconds=0.02, longest_seconds=0.1)


class Names:
    """Channels that no other test uses."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self, prefix: str = "python") -> str:
        self._last += 1
        return f"{prefix}:{time.time_ns()}-{self._last}"


fresh = Names()


def public(gateway: GatewayProcess) -> str:
    return f"ws://127.0.0.1:{gateway.public}/v1/ws"


@asynccontextmanager
async def admin(gateway: GatewayProcess) -> AsyncIterator[AsyncFanwayAdmin]:
    async with AsyncFanwayAdmin(f"http://127.0.0.1:{gateway.internal}", KEY) as client:
        yield client


def client(url: str | list[str], user: str = "ann", **options: Any) -> Fanway:
    return Fanway(url, get_token=lambda _: mint_token(SECRET, user), backoff=FAST, **options)


def when(matches: Callable[[Any], bool], arrived: asyncio.Event) -> Callable[[Any], None]:
    """Return a listener that sets *arrived* at the first event that *matches*."""

    def listener(event: Any) -> None:
        if matches(event):
            arrived.set()

    return listener


async def reached(fanway: Fanway, state: str) -> None:
    """Return when the client is in *state*."""
    arrived = asyncio.Event()
    off = fanway.on("state", when(lambda change: change.state == state, arrived))
    if fanway.state != state:
        await arrived.wait()
    off()


async def live(channel: Channel) -> None:
    """Return when the channel is live."""
    arrived = asyncio.Event()
    off = channel.on("state", when(lambda change: change.state == "live", arrived))
    if channel.state != "live":
        await arrived.wait()
    off()


async def take(channel: Channel, count: int) -> list[Any]:
    taken = []
    async for message in channel:
        taken.append(message.data)
        if len(taken) == count:
            break
    return taken


async def test_messages_of_a_backend_arrive(gateway: GatewayProcess) -> None:
    name = fresh()
    async with (
        client(public(gateway)) as fanway,
        admin(gateway) as backend,
        fanway.channel(name).messages() as messages,
    ):
        await reached(fanway, "connected")
        await backend.publish(name, {"n": 1})
        await backend.publish(name, {"n": 2})
        assert [(await anext(messages)).data for _ in range(2)] == [{"n": 1}, {"n": 2}]


async def test_every_message_once_and_in_order_whatever_is_cut(gateway: GatewayProcess) -> None:
    name, count = fresh(), 300
    numbers: list[int] = []
    gaps: list[Gap] = []
    complete = asyncio.Event()
    async with Proxy.to(gateway.public) as proxy, client(proxy.url) as fanway, admin(gateway) as backend:
        channel = fanway.channel(name)
        channel.on("gap", gaps.append)

        def on_message(message: Any) -> None:
            numbers.append(message.data)
            if len(numbers) in {100, 200}:
                proxy.cut()
            if message.data == count:
                complete.set()

        channel.on("message", on_message)
        await live(channel)
        for number in range(1, count + 1):
            await backend.publish(name, number)
            if number % 40 == 0:
                proxy.cut()
        await complete.wait()
        assert proxy.accepted > 3
    assert numbers == list(range(1, count + 1))
    assert gaps == []


async def test_a_publish_is_visible_once_whatever_is_cut(gateway: GatewayProcess) -> None:
    name, count = fresh(), 60
    async with Proxy.to(gateway.public) as proxy, client(proxy.url) as fanway, admin(gateway) as backend:
        channel = fanway.channel(name)
        for number in range(count):
            publishing = asyncio.create_task(channel.publish(number))
            if number % 7 == 0:
                asyncio.get_running_loop().call_soon(proxy.cut)
            await publishing
        history = await backend.history(name, limit=1000)
    assert [message["data"] for message in history["messages"]] == list(range(count))


async def test_a_gap_loads_the_state_which_joins_the_stream_without_a_hole(gateway: GatewayProcess) -> None:
    name = fresh("short")  # keeps two messages
    state: list[int] = []
    loads: list[str] = []
    async with Proxy.to(gateway.public) as proxy, client(proxy.url) as fanway, admin(gateway) as backend:

        async def load_state(request: LoadRequest) -> str:
            loads.append(request.reason)
            history = await backend.history(name)
            state[:] = [message["data"] for message in history["messages"]]
            changed.set()
            return str(history["position"])

        changed = asyncio.Event()

        async def shows(expected: list[int]) -> None:
            while state != expected:
                changed.clear()
                await changed.wait()

        for number in (1, 2):
            await backend.publish(name, number)
        channel = fanway.channel(name, load_state=load_state)
        channel.on("message", lambda message: state.append(message.data))
        channel.on("message", lambda _: changed.set())
        await shows([1, 2])
        proxy.refusing = True
        proxy.cut()
        await reached(fanway, "waiting")
        for number in range(3, 10):
            await backend.publish(name, number)
        proxy.refusing = False
        await shows([8, 9])
        await backend.publish(name, 10)
        await shows([8, 9, 10])
    assert loads == ["first", "gap"]


async def test_presence_and_history(gateway: GatewayProcess) -> None:
    name = fresh()
    async with (
        client(public(gateway)) as ann,
        client(public(gateway), "ben") as ben,
        admin(gateway) as backend,
    ):
        for number in range(1, 8):
            await backend.publish(name, number)
        changes: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        channel = ann.channel(name, presence=True)
        for change in ("members", "join", "leave"):
            channel.on(change, partial(lambda change, event: changes.put_nowait((change, event)), change))
        kind, members = await changes.get()
        assert (kind, [member.user for member in members]) == ("members", ["ann"])
        ben.channel(name).on("message", lambda _: None)
        kind, member = await changes.get()
        assert (kind, member.user) == ("join", "ben")
        assert (await channel.presence.get()).users == 2
        pages = channel.history(page_size=3)
        assert [message.data async for message in pages] == [1, 2, 3, 4, 5, 6, 7]
        newest = channel.history(page_size=3, reverse=True)
        assert [message.data async for message in newest] == [7, 6, 5, 4, 3, 2, 1]


async def test_live_presence_follows_joins_and_leaves(gateway: GatewayProcess) -> None:
    name = fresh()
    changed = asyncio.Event()

    async def seen_by(presence: LivePresence, *users: str) -> None:
        while sorted(presence.users) != sorted(users):
            changed.clear()
            await changed.wait()

    async with client(public(gateway)) as ann, client(public(gateway), "ben") as ben:
        presence = LivePresence(ann, name)
        presence.on_change(lambda _: changed.set())
        await seen_by(presence, "ann")
        assert presence.ready
        off = ben.channel(name).on("message", lambda _: None)
        await seen_by(presence, "ann", "ben")
        off()
        await seen_by(presence, "ann")
        presence.close()
        changed.clear()
        assert ann.channel(name).state == "idle"


async def test_a_token_is_refreshed_before_it_expires(gateway: GatewayProcess) -> None:
    reasons: list[str] = []
    again = asyncio.Event()

    async def get_token(reason: str) -> str:
        reasons.append(reason)
        if len(reasons) == 2:
            again.set()
        return mint_token(SECRET, "ann", ttl=4)

    async with Fanway(public(gateway), get_token=get_token) as fanway:
        fanway.connect()
        await again.wait()
        assert fanway.state == "connected"
    assert reasons == ["connect", "expiring"]


async def test_unauthorized_stops_the_client(gateway: GatewayProcess) -> None:
    def get_token(_: str) -> str:
        raise UnauthorizedError("signed out")

    async with Fanway(public(gateway), get_token=get_token) as fanway:
        with pytest.raises(FanwayError, match="stopped") as error:
            await fanway.channel(fresh()).publish(1)
        assert error.value.code == "stopped"


async def test_a_rejected_publish_has_the_code_of_the_gateway(gateway: GatewayProcess) -> None:
    async with client(public(gateway)) as fanway:
        with pytest.raises(FanwayError) as error:
            await fanway.channel(fresh("quiet")).publish(1)
    assert (error.value.code, error.value.retryable) == ("permission_denied", False)


async def test_a_loop_that_is_too_slow_overflows(gateway: GatewayProcess) -> None:
    name = fresh()
    async with (
        client(public(gateway)) as fanway,
        admin(gateway) as backend,
        fanway.channel(name, buffer=2).messages() as messages,
    ):
        await reached(fanway, "connected")
        for number in range(4):
            await backend.publish(name, number)
        seen = asyncio.Event()
        fanway.channel(name).on("message", when(lambda message: message.data == 4, seen))
        await backend.publish(name, 4)
        await seen.wait()
        assert [(await anext(messages)).data for _ in range(2)] == [0, 1]
        with pytest.raises(FanwayError) as error:
            await anext(messages)
    assert error.value.code == "overflow"


async def test_a_loop_that_was_left_unsubscribes(gateway: GatewayProcess) -> None:
    name = fresh()
    async with client(public(gateway)) as fanway, admin(gateway) as backend:
        await backend.publish(name, 1)
        channel = fanway.channel(name, rewind=1)
        assert await take(channel, 1) == [1]
        assert channel.state == "idle"


async def test_a_cancelled_publish_leaves_nothing(gateway: GatewayProcess) -> None:
    async with Proxy.to(gateway.public) as proxy:
        proxy.refusing = True
        async with client(proxy.url) as fanway:
            publishing = asyncio.create_task(fanway.channel(fresh()).publish(1))
            await reached(fanway, "waiting")
            publishing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await publishing
            assert fanway.publishing == 0


async def test_the_end_of_the_block_ends_everything(gateway: GatewayProcess) -> None:
    before = asyncio.all_tasks()
    async with client(public(gateway)) as fanway:
        loop = asyncio.create_task(take(fanway.channel(fresh()), 1))
        await reached(fanway, "connected")
    with pytest.raises(FanwayError) as error:
        await loop
    assert error.value.code == "stopped"
    assert asyncio.all_tasks() == before


async def test_an_error_in_the_block_is_raised_as_it_is(gateway: GatewayProcess) -> None:
    async def application() -> None:
        async with client(public(gateway)) as fanway:
            await fanway.channel(fresh()).publish(1)
            raise LookupError("of the application")

    with pytest.raises(LookupError, match="of the application"):
        await application()


async def test_admin(gateway: GatewayProcess) -> None:
    one, two = fresh(), fresh()
    async with client(public(gateway), "admin-test") as fanway, admin(gateway) as backend:
        first = await backend.publish(one, 1, key="k")
        again = await backend.publish(one, 1, key="k")
        assert (first["replayed"], again["replayed"]) == (False, True)
        assert [result["channel"] for result in await backend.broadcast([one, two], 2)] == [one, two]
        results = await backend.batch([{"channel": one, "data": 3}, {"channel": two, "data": 3}])
        assert len(results) == 2
        fanway.connect()
        await reached(fanway, "connected")
        assert "error" not in (await backend.notify(["admin-test"], "hello"))[0]
        assert await backend.subscribe("admin-test", one) == 1
        assert (await backend.presence(one))["connections"] == 1
        assert await backend.unsubscribe("admin-test", one) == 1
        assert await backend.disconnect("admin-test") == 1
        await reached(fanway, "stopped")
        with pytest.raises(FanwayError) as error:
            await backend.publish("not a channel", 1)
        assert error.value.code == "bad_request"


def test_without_an_event_loop(gateway: GatewayProcess) -> None:
    name = fresh()
    with (
        FanwayAdmin(f"http://127.0.0.1:{gateway.internal}", KEY) as backend,
        FanwaySync(public(gateway), get_token=lambda _: mint_token(SECRET, "ann")) as fanway,
    ):
        channel = fanway.channel(name, rewind=2)
        assert channel.publish("one").id is not None
        backend.publish(name, "two")
        messages = iter(channel)
        assert [next(messages).data, next(messages).data] == ["one", "two"]
        assert channel.presence().connections == 1
        assert [message.data for message in channel.history()] == ["one", "two"]
        messages.close()  # type: ignore[attr-defined]
