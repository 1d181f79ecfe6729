"""Bad weather: faults of every kind that a proxy knows, on any connection, many at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from tests.chaos.flow import CLEAR, Line
from tests.chaos.proxy import Connection, Cut, Proxy

Fault = Callable[[Proxy, Connection, Random], Awaitable[None]]


async def cut(_: Proxy, connection: Connection, random: Random) -> None:
    """Break the connection in the middle of whatever it carries."""
    connection.cut(random.choice(list(Cut)))


async def slow(_: Proxy, connection: Connection, random: Random) -> None:
    """Let the client fall behind for a while, and catch up."""
    await _for_a_while(connection, random, down=Line(rate=random.uniform(100, 2_000), split=True))


async def far(_: Proxy, connection: Connection, random: Random) -> None:
    """Add the way round the world, in both directions."""
    line = Line(delay=random.uniform(0.01, 0.3), split=random.random() < 0.5)
    await _for_a_while(connection, random, up=line, down=line)


async def deaf(_: Proxy, connection: Connection, random: Random) -> None:
    """Let nothing through in one direction; whatever waited then arrives, or is lost with the connection."""
    direction = random.choice(["up", "down"])
    await _for_a_while(connection, random, **{direction: Line(blocked=True)})
    if random.random() < 0.5:
        connection.cut(random.choice(list(Cut)))


async def refused(network: Proxy, connection: Connection, random: Random) -> None:
    """Break the connection, and let nobody in for a moment."""
    network.refuse()
    connection.cut()
    await asyncio.sleep(random.uniform(0.02, 0.2))
    network.accept()


FAULTS: tuple[Fault, ...] = (cut, cut, cut, slow, far, deaf, refused)


async def _for_a_while(
    connection: Connection, random: Random, *, up: Line | None = None, down: Line | None = None
) -> None:
    connection.shape(up=up, down=down)
    await asyncio.sleep(random.uniform(0.1, 1.0))
    connection.shape(up=CLEAR, down=CLEAR)


async def storm(network: Proxy, random: Random, *, seconds: float, rate: float) -> None:
    """Let about *rate* faults a second befall random connections; all is well again when it returns."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    async with asyncio.TaskGroup() as faults:
        while loop.time() < until:
            if network.connections:
                fault = random.choice(FAULTS)
                faults.create_task(fault(network, random.choice(network.connections), random))  # type: ignore[arg-type]
            await asyncio.sleep(random.uniform(0, 2 / rate))
