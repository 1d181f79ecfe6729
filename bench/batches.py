"""How many publishes go through Redis from one worker, and what each costs whom.

A second node, a process of its own, follows every channel and counts what arrives, so that nothing is fast
because it was lost. `bare` is what Redis does at most: the commands that a node sends for its publishes,
recorded and sent again over one connection, without a gateway.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from multiprocessing.connection import Connection

import hiredis
import uvloop
from load import Row, costs
from nodes import KEPT, CountingNode, listening, node_at
from peers import ROOT, Server, fanway
from process import cpu_by_process
from running import BenchError, Redis, redis
from tap import tapped

from gateway.broker.base import Publication
from gateway.broker.redis.scripts.registry import PUBLISH
from protocol.payload import payload_of

CHANNELS = [f"bench:{number}" for number in range(100)]
DATA = {"text": "x" * 140}
WARM_UP = 0.2
"""The part of a run that is not counted: channels are new then, and code is cold."""


def batched(size: int, connections: int, seconds: float) -> Row:
    """Return the figures of `POST /v1/batch` with *size* publishes each, over so many *connections*."""
    with redis() as store, fanway(ROOT, store) as server, listening(store.url, CHANNELS) as (pid, pipe):
        request = _request(size)
        done = uvloop.run(_posted(server, request, size, connections, seconds * WARM_UP))
        before, redis_before, listener = *costs(server), sum(cpu_by_process(pid).values())
        begun = time.monotonic()
        published = uvloop.run(_posted(server, request, size, connections, seconds))
        elapsed = time.monotonic() - begun
        arrived = _arrived(pipe, done + published)
        after, redis_after = costs(server)
        taken = {
            "CPU µs": sum(after.values()) - sum(before.values()),
            "Redis µs": redis_after - redis_before,
            "listener µs": sum(cpu_by_process(pid).values()) - listener,
        }
    return _row(f"{size} x {connections}", published, arrived - done, elapsed, taken)


def bare(size: int, seconds: float) -> Row:
    """Return the figures of Redis alone, with *size* publishes in a pipeline."""
    with redis() as store, listening(store.url, CHANNELS) as (pid, pipe):
        commands = uvloop.run(_recorded(store))
        done = len(commands) + _sent(store, commands, size, seconds * WARM_UP)
        redis_before, listener = _cpu(store.pid), _cpu(pid)
        begun = time.monotonic()
        published = _sent(store, commands, size, seconds)
        elapsed = time.monotonic() - begun
        arrived = _arrived(pipe, done + published)
        taken = {
            "CPU µs": 0.0,
            "Redis µs": _cpu(store.pid) - redis_before,
            "listener µs": _cpu(pid) - listener,
        }
    return _row(f"bare {size}", published, arrived - done, elapsed, taken)


def _row(name: str, published: int, arrived: int, elapsed: float, taken: dict[str, float]) -> Row:
    each = {title: seconds * 1e6 / max(1, published) for title, seconds in taken.items()}
    return {
        "batch": name,
        "published": published,
        "arrived": arrived,
        "publishes/s": published / elapsed,
        **each,
    }


def _cpu(pid: int) -> float:
    return sum(cpu_by_process(pid).values())


def _arrived(pipe: Connection, wanted: int) -> int:
    pipe.send(wanted)
    arrived: int = pipe.recv()
    return arrived


# ---------------------------------------------------------------- by HTTP


def _request(size: int) -> bytes:
    commands = [{"publish": {"channel": name, "data": DATA}} for name in islice(cycle(CHANNELS), size)]
    body = json.dumps({"commands": commands}).encode()
    head = "POST /v1/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer dev\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _posted(server: Server, request: bytes, size: int, connections: int, seconds: float) -> int:
    """Return how many were published in so many *seconds*."""
    end = time.monotonic() + seconds
    one = (_one_after_the_other(server.internal_port, request, size, end) for _ in range(connections))
    return sum(await asyncio.gather(*one))


async def _one_after_the_other(port: int, request: bytes, size: int, end: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    published = 0
    while time.monotonic() < end:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
        body = await reader.readexactly(length)
        if (stored := body.count(b'"message":')) != size:
            raise BenchError(f"{size - stored} of {size} were not published: {body[:300].decode()}")
        published += stored
    writer.close()
    return published


# ---------------------------------------------------------------- without a gateway


async def _recorded(store: Redis) -> Sequence[bytes]:
    """Return the commands that publish once in each channel, as a node has sent them."""
    async with tapped(store.port) as tap, node_at(tap.url, CountingNode("recorded")) as broker:
        tap.recording = True
        data = payload_of(DATA)
        await asyncio.gather(*(broker.publish(Publication(name, data, KEPT)) for name in CHANNELS))
        tap.recording = False
        return [each for each in _commands(bytes(tap.said)) if PUBLISH.digest.encode() in each[:100]]


def _commands(said: bytes) -> Iterator[bytes]:
    """Yield each command of *said*: an array of bulk strings (the Redis protocol)."""
    place = 0
    while place < len(said):
        begun = place
        end = said.index(b"\r\n", place)
        place, items = end + 2, int(said[place + 1 : end])
        for _ in range(items):
            end = said.index(b"\r\n", place)
            place = end + 2 + int(said[place + 1 : end]) + 2
        yield said[begun:place]


def _sent(store: Redis, commands: Sequence[bytes], size: int, seconds: float) -> int:
    """Send *commands* again and again, *size* in a pipeline; return how many in all."""
    pipeline = b"".join(islice(cycle(commands), size))
    published, end = 0, time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", store.port)) as connection:
        while time.monotonic() < end:
            connection.sendall(pipeline)
            _answered(connection, size)
            published += size
    return published


def _answered(connection: socket.socket, size: int) -> None:
    reader = hiredis.Reader()
    while size:
        reader.feed(connection.recv(1 << 20))
        while (answer := reader.gets()) is not False:
            if isinstance(answer, Exception):
                raise BenchError(f"Redis refuses to publish: {answer}")
            size -= 1
