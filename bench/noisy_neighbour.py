"""The latency of a channel alone, and beside a channel that is published to as fast as possible.

The subscribers of both channels are on one node. With two nodes everything is published at the other one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from child_processes import redis_server
from servers import ROOT, Server, fanway
from wsload_run import Row, measure

Setup = tuple[Server, Sequence[str]]
"""The server whose costs count, and the arguments with which `wsload` subscribes and publishes."""


@contextmanager
def one_node() -> Iterator[Setup]:
    """Run one node without Redis."""
    with fanway(ROOT) as server:
        yield server, server.arguments


@contextmanager
def two_nodes() -> Iterator[Setup]:
    """Run two nodes on one Redis: clients publish at the first and subscribe at the second."""
    with redis_server() as redis, fanway(ROOT, redis) as first, fanway(ROOT, redis) as second:
        yield second, [*second.subscriber_arguments, *first.publisher_arguments]


SETUPS = {"one node": one_node, "two nodes": two_nodes}


def measure_beside_flood(
    setup: str, flood: Mapping[str, float] | None, quiet: Mapping[str, float], wsload: Path
) -> Row:
    """Return the figures of the scenario *quiet* in *setup*, while *flood*, if any, runs at the same time."""
    with SETUPS[setup]() as (server, arguments), ThreadPoolExecutor() as threads:
        flood_arguments = [each.replace("bench:", "flood:") for each in arguments]
        flooding = flood and threads.submit(measure, server, flood, wsload, arguments=flood_arguments)
        row = measure(server, quiet, wsload, arguments=arguments)
        flood_row = flooding.result() if flooding else {"publishes/s": 0.0, "delivered/expected": "0/0"}
    return {
        **row,
        "setup": setup,
        "flood": flood_row["publishes/s"],
        "flood delivered/expected": flood_row["delivered/expected"],
    }
