"""What a channel has to bear whose neighbour is flooded: its latency alone, and beside a flood.

Both channels are followed at one node. Over two nodes everything is published at the other one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from load import Row, measured
from peers import ROOT, Server, fanway
from running import redis

Way = tuple[Server, Sequence[str]]
"""Whose costs count, and the arguments with which `wsload` subscribes and publishes."""


@contextmanager
def one_node() -> Iterator[Way]:
    """Yield a node that needs nothing beside itself."""
    with fanway(ROOT) as server:
        yield server, server.arguments


@contextmanager
def two_nodes() -> Iterator[Way]:
    """Yield a node whose messages come over Redis from another."""
    with redis() as store, fanway(ROOT, store) as near, fanway(ROOT, store) as far:
        yield far, [*far.subscribing, *near.publishing]


WAYS = {"one node": one_node, "two nodes": two_nodes}


def beside(name: str, flood: Mapping[str, float] | None, quiet: Mapping[str, float], wsload: Path) -> Row:
    """Return the figures of *quiet* by the way *name*, while *flood* runs, if any, as fast as it goes."""
    with WAYS[name]() as (server, arguments), ThreadPoolExecutor() as threads:
        loud = [each.replace("bench:", "flood:") for each in arguments]
        flooding = flood and threads.submit(measured, server, flood, wsload, arguments=loud)
        row = measured(server, quiet, wsload, arguments=arguments)
        flooded = flooding.result() if flooding else {"publishes/s": 0.0, "delivered/expected": "0/0"}
    return {
        **row,
        "way": name,
        "flood": flooded["publishes/s"],
        "flood delivered/expected": flooded["delivered/expected"],
    }
