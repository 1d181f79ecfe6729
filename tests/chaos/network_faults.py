"""Faults of the network, of every kind that a proxy can cause, on random connections, many at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from tests.chaos.proxy import Connection, Cut, Proxy
from tests.chaos.relay import UNIMPAIRED, LinkConditions

NetworkFault = Callable[[Proxy, Connection, Random], Awaitable[None]]


async def cut(_: Proxy, connection: Connection, random: Random) -> None:
    """End the connection, whatever it is transferring."""
    connection.cut(random.choice(list(Cut)))


async def slow_download(_: Proxy, connection: Connection, random: Random) -> None:
    """Limit what the client receives for a while, so that it falls behind and then catches up."""
    conditions = LinkConditions(bytes_per_second=random.uniform(100, 2_000), fragmented=True)
    await _impair_for_a_while(connection, random, down=conditions)


async def long_delay(_: Proxy, connection: Connection, random: Random) -> None:
    """Add the delay of an intercontinental path in both directions."""
    conditions = LinkConditions(random.uniform(0.01, 0.3), fragmented=random.random() < 0.5)
    await _impair_for_a_while(connection, random, up=conditions, down=conditions)


async def one_way_blackhole(_: Proxy, connection: Connection, random: Random) -> None:
    """Block one direction; what waited meanwhile then arrives, or is lost with the connection."""
    direction = random.choice(["up", "down"])
    await _impair_for_a_while(connection, random, **{direction: LinkConditions(blocked=True)})
    if random.random() < 0.5:
        connection.cut(random.choice(list(Cut)))


async def refuse_connections(proxy: Proxy, connection: Connection, random: Random) -> None:
    """Cut the connection, and refuse new ones for a moment."""
    proxy.refuse()
    connection.cut()
    await asyncio.sleep(random.uniform(0.02, 0.2))
    proxy.accept()


NETWORK_FAULTS: tuple[NetworkFault, ...] = (
    cut,
    cut,
    cut,
    slow_download,
    long_delay,
    one_way_blackhole,
    refuse_connections,
)
"""A fault that is listed several times is as many times as likely."""


async def _impair_for_a_while(
    connection: Connection,
    random: Random,
    *,
    up: LinkConditions | None = None,
    down: LinkConditions | None = None,
) -> None:
    connection.impair(up=up, down=down)
    await asyncio.sleep(random.uniform(0.1, 1.0))
    connection.impair(up=UNIMPAIRED, down=UNIMPAIRED)


async def inject_network_faults(proxy: Proxy, random: Random, *, seconds: float, rate: float) -> int:
    """Inject about *rate* faults a second into random connections; return how many, after the end of all."""
    count = 0
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    async with asyncio.TaskGroup() as faults:
        while loop.time() < until:
            if proxy.connections:
                count += 1
                fault = random.choice(NETWORK_FAULTS)
                faults.create_task(fault(proxy, random.choice(proxy.connections), random))  # type: ignore[arg-type]
            await asyncio.sleep(random.uniform(0, 2 / rate))
    return count
