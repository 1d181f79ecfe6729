"""How many publishes go through Redis from one worker, and the CPU time they cost each process.

A second node, in a process of its own, is subscribed to every channel and counts deliveries, so that losses
cannot pass for speed. `bare` is the limit that Redis itself sets: the commands that a node sends for its
publishes, recorded and sent again over one connection, without a gateway.
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
from broker_nodes import RETENTION, CountingNode, broker_node, subscriber_process
from child_processes import BenchError, RedisServer, redis_server
from counting_proxy import counting_proxy
from process_costs import cpu_seconds
from servers import ROOT, Server, fanway
from wsload_run import Row

from gateway.broker.base import Publication
from gateway.broker.redis.scripts.registry import PUBLISH
from protocol.payload import payload_of

CHANNELS = [f"bench:{number}" for number in range(100)]
DATA = {"text": "x" * 140}
WARM_UP_SHARE = 0.2
"""How long to publish before a measurement, as a share of its duration: channels are new, code is cold."""


def measure_batches(size: int, connections: int, seconds: float) -> Row:
    """Return the figures of `POST /v1/batch` with *size* publishes each, over so many *connections*."""
    with (
        redis_server() as redis,
        fanway(ROOT, redis) as server,
        subscriber_process(redis.url, CHANNELS) as (listener_pid, pipe),
    ):
        request = _batch_request(size)
        warm_up = uvloop.run(_publish_batches(server, request, size, connections, seconds * WARM_UP_SHARE))
        before = cpu_seconds(server.pid), cpu_seconds(redis.pid), cpu_seconds(listener_pid)
        started = time.monotonic()
        published = uvloop.run(_publish_batches(server, request, size, connections, seconds))
        elapsed = time.monotonic() - started
        delivered = _wait_until_delivered(pipe, warm_up + published)
        after = cpu_seconds(server.pid), cpu_seconds(redis.pid), cpu_seconds(listener_pid)
    costs = [end - begin for begin, end in zip(before, after, strict=True)]
    return _row(f"{size} x {connections}", published, delivered - warm_up, elapsed, costs)


def measure_bare_redis(size: int, seconds: float) -> Row:
    """Return the figures of Redis alone, with *size* publishes in a pipeline."""
    with redis_server() as redis, subscriber_process(redis.url, CHANNELS) as (listener_pid, pipe):
        commands = uvloop.run(_record_publish_commands(redis))
        warm_up = len(commands) + _send_commands(redis, commands, size, seconds * WARM_UP_SHARE)
        before = cpu_seconds(redis.pid), cpu_seconds(listener_pid)
        started = time.monotonic()
        published = _send_commands(redis, commands, size, seconds)
        elapsed = time.monotonic() - started
        delivered = _wait_until_delivered(pipe, warm_up + published)
        after = cpu_seconds(redis.pid), cpu_seconds(listener_pid)
    costs = [0.0, *(end - begin for begin, end in zip(before, after, strict=True))]
    return _row(f"bare {size}", published, delivered - warm_up, elapsed, costs)


def _row(name: str, published: int, delivered: int, elapsed: float, cpu_seconds: Sequence[float]) -> Row:
    """Return a row of the table; *cpu_seconds* are those of the gateway, of Redis, and of the listener."""
    titles = ("CPU µs", "Redis µs", "listener µs")
    per_publish = {
        title: seconds * 1e6 / max(1, published) for title, seconds in zip(titles, cpu_seconds, strict=True)
    }
    return {
        "batch": name,
        "published": published,
        "delivered": delivered,
        "publishes/s": published / elapsed,
        **per_publish,
    }


def _wait_until_delivered(pipe: Connection, count: int) -> int:
    pipe.send(count)
    delivered: int = pipe.recv()
    return delivered


# ---------------------------------------------------------------- by HTTP


def _batch_request(size: int) -> bytes:
    commands = [{"publish": {"channel": name, "data": DATA}} for name in islice(cycle(CHANNELS), size)]
    body = json.dumps({"commands": commands}).encode()
    head = "POST /v1/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer dev\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _publish_batches(
    server: Server, request: bytes, size: int, connections: int, seconds: float
) -> int:
    """Return how many messages were published within *seconds*."""
    deadline = time.monotonic() + seconds
    publishers = (
        _publish_over_one_connection(server.internal_port, request, size, deadline)
        for _ in range(connections)
    )
    return sum(await asyncio.gather(*publishers))


async def _publish_over_one_connection(port: int, request: bytes, size: int, deadline: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    published = 0
    while time.monotonic() < deadline:
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


async def _record_publish_commands(redis: RedisServer) -> Sequence[bytes]:
    """Return the commands that publish once in each channel, as a node sent them."""
    async with (
        counting_proxy(redis.port) as proxy,
        broker_node(proxy.url, CountingNode("recorded")) as broker,
    ):
        proxy.recording = True
        data = payload_of(DATA)
        await asyncio.gather(*(broker.publish(Publication(name, data, RETENTION)) for name in CHANNELS))
        proxy.recording = False
        commands = _split_commands(bytes(proxy.recorded_commands))
        return [command for command in commands if PUBLISH.digest.encode() in command[:100]]


def _split_commands(recorded: bytes) -> Iterator[bytes]:
    """Yield each command in *recorded*: an array of bulk strings (RESP)."""
    index = 0
    while index < len(recorded):
        begin = index
        line_end = recorded.index(b"\r\n", index)
        index, items = line_end + 2, int(recorded[index + 1 : line_end])
        for _ in range(items):
            line_end = recorded.index(b"\r\n", index)
            index = line_end + 2 + int(recorded[index + 1 : line_end]) + 2
        yield recorded[begin:index]


def _send_commands(redis: RedisServer, commands: Sequence[bytes], size: int, seconds: float) -> int:
    """Send *commands* repeatedly for *seconds*, *size* in a pipeline; return how many in all."""
    pipeline = b"".join(islice(cycle(commands), size))
    published, deadline = 0, time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", redis.port)) as connection:
        while time.monotonic() < deadline:
            connection.sendall(pipeline)
            _read_replies(connection, size)
            published += size
    return published


def _read_replies(connection: socket.socket, count: int) -> None:
    reader = hiredis.Reader()
    while count:
        reader.feed(connection.recv(1 << 20))
        while (reply := reader.gets()) is not False:
            if isinstance(reply, Exception):
                raise BenchError(f"Redis rejects the publish: {reply}")
            count -= 1
