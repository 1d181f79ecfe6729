"""What many nodes over Redis cost: latency, publishes, traffic, neighbours, and what a second worker adds.

`make bench-redis`. `compare.py --peers fanway-redis,fanway` compares one worker over Redis with one without.
Everything runs on one machine: Redis, the gateway and the load share its cores, so each table says what every
one of them took. Ratios within one run mean something; figures of different runs hardly.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from batches import bare, batched
from interest import traffic
from load import Row, built, conditions, measured
from neighbours import WAYS, beside
from peers import ROOT, fanway, over_redis, working_tree
from running import BenchError, redis

LATENCY = {"connections": 100, "channels": 100, "rate": 1000, "publishers": 32, "seconds": 4}
MAX = {"connections": 1000, "channels": 1, "publishers": 16, "seconds": 4, "witnesses": 10, "rest": 20}
"""`max` as in compare.py, with a load generator that takes as little as it can."""
QUICK = {"connections": 100, "seconds": 0.3}
"""So many that what is published meanwhile fits an outbox, also where the load generator is not let run."""
QUIET = {"connections": 10, "channels": 10, "rate": 100, "publishers": 4, "seconds": 3}
FLOOD = {"connections": 25, "channels": 1, "publishers": 8, "seconds": 4}
BATCHES = ((100, 1), (100, 2), (100, 4), (1000, 1), (1000, 2), (1000, 4))

TABLES: dict[str, Sequence[tuple[str, int, str]]] = {
    "latency": (
        ("delivered/expected", 20, ""),
        ("publishes/s", 13, ",.0f"),
        ("p50 ms", 9, ".2f"),
        ("p99 ms", 9, ".2f"),
        ("max ms", 9, ".1f"),
    ),
    "batch": (
        ("batch", 10, ""),
        ("arrived", 11, ",d"),
        ("publishes/s", 13, ",.0f"),
        ("CPU µs", 9, ".1f"),
        ("Redis µs", 10, ".1f"),
        ("listener µs", 13, ".1f"),
    ),
    "interest": (
        ("nodes", 7, "d"),
        ("follows", 9, "d"),
        ("published", 11, ",d"),
        ("entries", 9, ",d"),
        ("KiB", 9, ",.0f"),
        ("most KiB", 10, ",.0f"),
    ),
    "neighbours": (
        ("way", 11, ""),
        ("flood", 9, ",.0f"),
        ("delivered/expected", 20, ""),
        ("p50 ms", 9, ".2f"),
        ("p99 ms", 9, ".2f"),
        ("max ms", 9, ".1f"),
    ),
    "workers": (
        ("workers", 10, ""),
        ("delivered/expected", 22, ""),
        ("deliveries/s", 14, ",.0f"),
        ("capacity/s", 12, ",.0f"),
        ("CPU µs", 8, ".2f"),
        ("Redis µs", 10, ".2f"),
        ("load µs", 9, ".2f"),
        ("used", 36, ""),
    ),
}
"""The columns of each section's table: title, width, format."""


def latency(asked: argparse.Namespace) -> list[Row]:
    """From a publish at one node to its delivery by another."""
    scenario = _sized(LATENCY, asked)
    wsload = built()
    rows = []
    for _ in range(asked.repeat):
        with redis() as store, fanway(ROOT, store) as near, fanway(ROOT, store) as far:
            arguments = [*far.subscribing, *near.publishing]
            rows.append(measured(far, scenario, wsload, arguments=arguments))
    _head("latency", "published at one node, delivered by another", scenario)
    _rows("latency", [_median(rows, "p99 ms")])
    return rows


def batch(asked: argparse.Namespace) -> list[Row]:
    """Publishes per second by POST /v1/batch, with one interested node."""
    seconds = QUICK["seconds"] if asked.quick else 2.0
    runs = [partial(bare, size, seconds) for size in ((100,) if asked.quick else (100, 1000))]
    batches = BATCHES[-1:] if asked.quick else BATCHES
    runs += [partial(batched, size, connections, seconds) for size, connections in batches]
    rows = [run() for _ in range(asked.repeat) for run in runs]
    what = "size x connections, one worker, one other node listens; bare: Redis alone"
    _head("batch", what, {"seconds": seconds})
    _rows("batch", _medians(rows, "batch", "publishes/s"))
    return rows


def interest(asked: argparse.Namespace) -> list[Row]:
    """What a node reads, by the size of the cluster and by what it follows."""
    rounds = 1 if asked.quick else 5
    sizes, shares = ((1, 8), (500,)) if asked.quick else ((1, 2, 4, 8), (50, 125, 500, 1000))
    grown = [traffic(nodes, 125, rounds) for nodes in sizes]
    _head("interest", "read by each node, on average and at most, whatever the cluster", {"channels": 1000})
    _rows("interest", grown)
    wider = [traffic(8, follows, rounds) for follows in shares]
    _head("interest", "the same, by what a node follows", {"channels": 1000})
    _rows("interest", wider)
    return [*grown, *wider]


def neighbours(asked: argparse.Namespace) -> list[Row]:
    """The latency of a quiet channel beside one that is flooded."""
    wsload, rows = built(), []
    seconds = {"seconds": QUICK["seconds"]} if asked.quick else {}
    for way in WAYS:
        for flood in (None, {**FLOOD, **seconds}):
            turns = [beside(way, flood, {**QUIET, **seconds}, wsload) for _ in range(asked.repeat)]
            rows.append(_median(turns, "p99 ms"))
    _head("neighbours", "a quiet channel beside another's publishes per second, to 25 subscribers", QUIET)
    _rows("neighbours", rows)
    return rows


def workers(asked: argparse.Namespace) -> list[Row]:
    """Deliveries by one worker and by two."""
    scenario = _sized(MAX, asked)
    wsload = built()
    peers = {"1, memory": working_tree(), "1": over_redis(), "2": over_redis(workers=2)}
    rows = []
    for _ in range(asked.repeat):
        for name, peer in peers.items():
            with peer.start() as server:
                rows.append({"workers": name, **_capacity(measured(server, scenario, wsload))})
    medians = _medians(rows, "workers", "deliveries/s")
    _head("workers", "capacity: deliveries per CPU second of the workers, times their number", scenario)
    _rows("workers", medians)
    _, one, two = medians
    for title in ("deliveries/s", "capacity/s"):
        print(f"2 : 1   {title} {two[title] / one[title]:.2f}")
    return rows


def _capacity(row: Row) -> Row:
    busy = [share for share in row["workers used"] if share > 0.05] or [1.0]
    used = " + ".join(f"{share:.2f}" for share in busy)
    used += f", Redis {row['Redis used']:.2f}, load {row['load used']:.2f}"
    return {**row, "capacity/s": len(busy) * 1e6 / (row["CPU µs"] or 1.0), "used": used}


SECTIONS = {
    "latency": latency,
    "batch": batch,
    "interest": interest,
    "neighbours": neighbours,
    "workers": workers,
}


def main() -> int:
    """Measure what the command line asks for; return the exit status."""
    asked = _arguments()
    try:
        sections = {name: SECTIONS[name](asked) for name in asked.sections}
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if asked.json is not None:
        asked.json.write_text(json.dumps({"conditions": conditions(), **sections}, indent=1) + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    every = ", ".join(SECTIONS)
    parser.add_argument("--sections", type=_names, default=tuple(SECTIONS), metavar="A,B", help=every)
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="take turns N times, show medians")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    parser.add_argument("--quick", action="store_true", help="half a second each: does the bench work?")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - SECTIONS.keys():
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: expected some of {', '.join(SECTIONS)}"
        )
    return names


def _sized(scenario: Mapping[str, float], asked: argparse.Namespace) -> dict[str, float]:
    if not asked.quick:
        return dict(scenario)
    return {**scenario, **QUICK, "channels": min(scenario["channels"], QUICK["connections"])}


def _median(rows: Sequence[Row], title: str) -> Row:
    middle = statistics.median_low(row[title] for row in rows)
    return next(row for row in rows if row[title] == middle)


def _medians(rows: Sequence[Row], kind: str, title: str) -> list[Row]:
    kinds = dict.fromkeys(row[kind] for row in rows)
    return [_median([row for row in rows if row[kind] == each], title) for each in kinds]


def _head(section: str, what: str, scenario: Mapping[str, float]) -> None:
    print(f"\n== {section}: {what}; {', '.join(f'{key} {value:g}' for key, value in scenario.items())}")
    print("".join(f"{name:>{width}}" for name, width, _ in TABLES[section]), flush=True)


def _rows(section: str, rows: Sequence[Row]) -> None:
    for row in rows:
        print("".join(f"{row[name]:>{width}{form}}" for name, width, form in TABLES[section]), flush=True)


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.exit(main())
