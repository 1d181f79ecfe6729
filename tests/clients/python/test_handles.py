"""Several handles on one channel: each gets what it asked for, or an error."""

from typing import Any

import pytest
from fanway_client import Channel, Fanway, Gap, LoadRequest, Message

from tests.clients.python.fake_gateway import FakeGateway
from tests.clients.python.scenario import FakeEnvironment, settle


class World:
    """A client beside a gateway in the same process."""

    def __init__(self, **options: Any) -> None:
        self.environment = FakeEnvironment(0.5)
        self.gateway = FakeGateway(self.environment, {"news": 100, "chat": 0, "@anna": 100})
        self.errors: list[Exception] = []
        self.fanway = Fanway("ws://gateway", transport=self.gateway, **options)
        self.fanway.start(self.environment)
        self.fanway.on("error", self.errors.append)

    def listen(self, name: str = "news", **options: Any) -> list[Any]:
        """Listen with a handle of its own; return the list that what it is told is added to."""
        told: list[Any] = []

        def on_message(message: Message[Any]) -> None:
            told.append(message.data)

        def on_gap(gap: Gap) -> None:
            told.append(gap.reason)

        channel: Channel = self.fanway.channel(name, **options)
        channel.on("gap", on_gap)
        channel.on("message", on_message)
        return told

    def publish(self, *numbers: int, name: str = "news") -> None:
        for number in numbers:
            self.gateway.publish(name, number)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_later_handle_has_its_own_rewind(world: World) -> None:
    world.publish(1, 2, 3)
    first = world.listen()
    await settle()
    world.publish(4, 5)
    await settle()
    second, third = world.listen(rewind=2), world.listen(rewind=4)
    world.publish(6)
    await settle()
    world.publish(7)
    await settle()
    assert first == [4, 5, 6, 7]
    assert second == [5, 6, 7]
    assert third == [3, 4, 5, 6, 7]
    assert world.errors == []


@pytest.mark.parametrize("held", range(8))
async def test_what_is_under_way_while_the_history_is_read_comes_once(world: World, held: int) -> None:
    world.listen()
    await settle()
    world.publish(1, 2)
    await settle()
    world.gateway.stalled = True
    world.publish(3)
    late = world.listen(rewind=3)
    world.gateway.move(to_gateway=1, to_client=held % 2)
    world.publish(4)
    world.gateway.move(to_gateway=held // 4, to_client=held // 2 % 2)
    world.publish(5)
    world.gateway.stalled = False
    world.gateway.move_soon()
    await settle()
    world.publish(6)
    await settle()
    assert late[-4:] == [3, 4, 5, 6]
    assert late == sorted(set(late))


async def test_a_history_that_is_ahead_of_the_stream(world: World) -> None:
    world.listen()
    await settle()
    link = world.gateway.link
    assert link is not None
    link.joined.pop("news")  # the gateway is late with what follows
    world.publish(1, 2, 3)
    late = world.listen(rewind=2)
    await settle()
    assert late == [2, 3]
    link.joined["news"] = 0
    log = world.gateway.logs["news"]
    for index in range(3):
        link.push(log.push(index))
    world.publish(4)
    await settle()
    assert late == [2, 3, 4]


async def test_a_connection_that_ends_while_the_history_is_read(world: World) -> None:
    world.listen()
    await settle()
    world.publish(1, 2, 3)
    await settle()
    world.gateway.stalled = True
    late = world.listen(rewind=2)
    world.gateway.end(1006, delivered=False)
    world.publish(4)
    world.gateway.stalled = False
    await world.environment.advance(1_000)
    assert late == [3, 4]


async def test_a_gap_while_the_history_is_read(world: World) -> None:
    world.listen()
    await settle()
    world.publish(1)
    await settle()
    world.gateway.stalled = True
    late = world.listen(rewind=2)
    world.publish(2)
    world.gateway.overflow("news", [3, 4])
    world.gateway.stalled = False
    world.gateway.move_soon()
    await settle()
    world.publish(5)
    await settle()
    assert late == ["overflow", 3, 4, 5]


async def test_a_rewind_that_is_refused_is_reported_and_the_messages_arrive(world: World) -> None:
    world.listen()
    await settle()
    world.publish(1)
    await settle()
    world.gateway.refused_types.add("history")
    late = world.listen(rewind=2)
    world.publish(2)
    await settle()
    assert late == [2]
    assert [getattr(error, "code", None) for error in world.errors] == ["permission_denied"]


async def test_handles_that_come_before_the_connection_have_their_own_rewind(world: World) -> None:
    world.publish(1, 2, 3, 4)
    same, other, none = world.listen(rewind=3), world.listen(rewind=1), world.listen()
    again = world.listen(rewind=3)
    await settle()
    world.publish(5)
    await settle()
    assert (same, again, other) == ([2, 3, 4, 5], [2, 3, 4, 5], [4, 5])
    assert none == [2, 3, 4, 5]  # it shares the subscription, which begins so


async def test_a_rewind_where_there_is_no_history(world: World) -> None:
    world.listen("chat", rewind=2)
    await settle()
    late = world.listen("chat", rewind=2)
    world.publish(1, name="chat")
    await settle()
    assert (late, world.errors) == ([1], [])


async def test_a_released_handle_gets_no_rewind(world: World) -> None:
    world.listen()
    await settle()
    world.publish(1)
    await settle()
    told: list[Any] = []
    channel = world.fanway.channel("news", rewind=1)
    channel.on("message", told.append)
    channel.close()
    await settle()
    world.publish(2)
    await settle()
    assert told == []


async def test_handles_share_one_load_state(world: World) -> None:
    loads: list[LoadRequest] = []

    async def load(request: LoadRequest) -> None:
        loads.append(request)

    world.listen(load_state=load)
    world.listen(load_state=load)
    with pytest.raises(ValueError, match="news: it is in use with another load_state"):
        world.listen(load_state=loads.append)
    world.listen("chat")
    with pytest.raises(ValueError, match="chat: it is in use with handles without load_state"):
        world.listen("chat", load_state=load)
    await settle()
    assert [request.channel for request in loads] == ["news"]


async def test_load_state_of_a_channel_that_the_server_subscribed(world: World) -> None:
    loads: list[LoadRequest] = []
    world.gateway.server_subs = ["@anna"]
    world.fanway.connect()
    await settle()
    world.publish(1, name="@anna")
    await settle()

    async def load(request: LoadRequest) -> None:
        loads.append(request)

    told = world.listen("@anna", load_state=load)
    await settle()
    world.publish(2, name="@anna")
    await settle()
    assert ([request.reason for request in loads], told) == (["first"], [2])


async def test_relistening_in_one_turn_replaces_load_state(world: World) -> None:
    loads: list[str] = []
    channel = world.fanway.channel("news", load_state=lambda _: loads.append("first"))
    channel.on("message", lambda _: None)
    await settle()
    channel.close()
    world.listen(load_state=lambda _: loads.append("second"))
    world.gateway.overflow("news", [1])
    await settle()
    assert loads == ["first", "second"]
