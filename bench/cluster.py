"""Measure several nodes on one Redis: latency, publishes, traffic, noisy neighbours, and a second worker.

`make bench-redis`. `compare.py --peers fanway-redis,fanway` compares one worker with Redis and one without.
Redis, the gateway and the load generator share the cores of one machine, so each table shows the CPU time of
each of them. Compare ratios within one run; figures of different runs hardly compare.
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

from batch_publishing import measure_bare_redis, measure_batches
from child_processes import BenchError, redis_server
from cluster_traffic import measure_traffic
from noisy_neighbour import SETUPS, measure_beside_flood
from servers import ROOT, fanway, with_redis, working_tree
from wsload_run import Row, build_wsload, conditions, measure

LATENCY = {"connections": 100, "channels": 100, "rate": 1000, "publishers": 32, "seconds": 4}
MAX = {"connections": 1000, "channels": 1, "publishers": 16, "seconds": 4, "witnesses": 10, "rest": 20}
"""The scenario `max` of compare.py, with a load generator that uses as little CPU as possible."""
QUICK = {"connections": 100, "seconds": 0.3}
"""Few enough that all messages fit an outbox even if the load generator gets no CPU for a while."""
QUIET_CHANNELS = {"connections": 10, "channels": 10, "rate": 100, "publishers": 4, "seconds": 3}
FLOODED_CHANNEL = {"connections": 25, "channels": 1, "publishers": 8, "seconds": 4}
BATCH_SIZES_AND_CONNECTIONS = ((100, 1), (100, 2), (100, 4), (1000, 1), (1000, 2), (1000, 4))

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
        ("delivered", 11, ",d"),
        ("publishes/s", 13, ",.0f"),
        ("CPU µs", 9, ".1f"),
        ("Redis µs", 10, ".1f"),
        ("listener µs", 13, ".1f"),
    ),
    "interest": (
        ("nodes", 7, "d"),
        ("subscribed", 12, "d"),
        ("published", 11, ",d"),
        ("entries", 9, ",d"),
        ("KiB", 9, ",.0f"),
        ("max KiB", 10, ",.0f"),
    ),
    "neighbours": (
        ("setup", 11, ""),
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


def latency(options: argparse.Namespace) -> list[Row]:
    """Measure the time from a publish at one node to its delivery by another."""
    scenario = _sized(LATENCY, options)
    wsload = build_wsload()
    rows = []
    for _ in range(options.repeat):
        with redis_server() as redis, fanway(ROOT, redis) as first, fanway(ROOT, redis) as second:
            arguments = [*second.subscriber_arguments, *first.publisher_arguments]
            rows.append(measure(second, scenario, wsload, arguments=arguments))
    _print_header("latency", "published at one node, delivered by another", scenario)
    _print_rows("latency", [_median(rows, "p99 ms")])
    return rows


def batch(options: argparse.Namespace) -> list[Row]:
    """Measure publishes per second by POST /v1/batch, with one subscribed node."""
    seconds = QUICK["seconds"] if options.quick else 2.0
    runs = [partial(measure_bare_redis, size, seconds) for size in ((100,) if options.quick else (100, 1000))]
    batches = BATCH_SIZES_AND_CONNECTIONS[-1:] if options.quick else BATCH_SIZES_AND_CONNECTIONS
    runs += [partial(measure_batches, size, connections, seconds) for size, connections in batches]
    rows = [run() for _ in range(options.repeat) for run in runs]
    what = "size x connections; one worker, one other node is subscribed; bare: Redis alone"
    _print_header("batch", what, {"seconds": seconds})
    _print_rows("batch", _medians(rows, "batch", "publishes/s"))
    return rows


def interest(options: argparse.Namespace) -> list[Row]:
    """Measure what a node reads, by the size of the cluster and by how much it is subscribed to."""
    rounds = 1 if options.quick else 5
    node_counts, subscribed_counts = (
        ((1, 8), (500,)) if options.quick else ((1, 2, 4, 8), (50, 125, 500, 1000))
    )
    by_nodes = [measure_traffic(nodes, 125, rounds) for nodes in node_counts]
    _print_header(
        "interest", "read by each node, on average and at most, by the number of nodes", {"channels": 1000}
    )
    _print_rows("interest", by_nodes)
    by_subscribed = [measure_traffic(8, subscribed, rounds) for subscribed in subscribed_counts]
    _print_header("interest", "the same, by the channels that a node is subscribed to", {"channels": 1000})
    _print_rows("interest", by_subscribed)
    return [*by_nodes, *by_subscribed]


def neighbours(options: argparse.Namespace) -> list[Row]:
    """Measure the latency of quiet channels beside one that is flooded."""
    wsload, rows = build_wsload(), []
    seconds = {"seconds": QUICK["seconds"]} if options.quick else {}
    for setup in SETUPS:
        for flood in (None, {**FLOODED_CHANNEL, **seconds}):
            turns = [
                measure_beside_flood(setup, flood, {**QUIET_CHANNELS, **seconds}, wsload)
                for _ in range(options.repeat)
            ]
            rows.append(_median(turns, "p99 ms"))
    _print_header(
        "neighbours",
        "quiet channels beside one with 25 subscribers, flooded with publishes per second",
        QUIET_CHANNELS,
    )
    _print_rows("neighbours", rows)
    return rows


def workers(options: argparse.Namespace) -> list[Row]:
    """Measure deliveries by one worker and by two."""
    scenario = _sized(MAX, options)
    wsload = build_wsload()
    peers = {"1, memory": working_tree(), "1": with_redis(), "2": with_redis(workers=2)}
    rows = []
    for _ in range(options.repeat):
        for name, peer in peers.items():
            with peer.start() as server:
                rows.append({"workers": name, **_with_capacity(measure(server, scenario, wsload))})
    medians = _medians(rows, "workers", "deliveries/s")
    _print_header(
        "workers", "capacity: deliveries per CPU second of the workers, times their number", scenario
    )
    _print_rows("workers", medians)
    _, one, two = medians
    for title in ("deliveries/s", "capacity/s"):
        print(f"2 : 1   {title} {two[title] / one[title]:.2f}")
    return rows


def _with_capacity(row: Row) -> Row:
    """Return *row* with the deliveries that its workers could make with a core each."""
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
    """Run the sections that the command line selects; return the exit status."""
    options = _parse_arguments()
    try:
        sections = {name: SECTIONS[name](options) for name in options.sections}
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_text(json.dumps({"conditions": conditions(), **sections}, indent=1) + "\n")
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    every = ", ".join(SECTIONS)
    parser.add_argument("--sections", type=_names, default=tuple(SECTIONS), metavar="A,B", help=every)
    parser.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="run each N times, in turn, and print medians"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE as well")
    parser.add_argument("--quick", action="store_true", help="half a second each: does the bench work?")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - SECTIONS.keys():
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: expected some of {', '.join(SECTIONS)}"
        )
    return names


def _sized(scenario: Mapping[str, float], options: argparse.Namespace) -> dict[str, float]:
    if not options.quick:
        return dict(scenario)
    return {**scenario, **QUICK, "channels": min(scenario["channels"], QUICK["connections"])}


def _median(rows: Sequence[Row], title: str) -> Row:
    middle = statistics.median_low(row[title] for row in rows)
    return next(row for row in rows if row[title] == middle)


def _medians(rows: Sequence[Row], kind: str, title: str) -> list[Row]:
    kinds = dict.fromkeys(row[kind] for row in rows)
    return [_median([row for row in rows if row[kind] == each], title) for each in kinds]


def _print_header(section: str, what: str, scenario: Mapping[str, float]) -> None:
    print(f"\n== {section}: {what}; {', '.join(f'{key} {value:g}' for key, value in scenario.items())}")
    print("".join(f"{name:>{width}}" for name, width, _ in TABLES[section]), flush=True)


def _print_rows(section: str, rows: Sequence[Row]) -> None:
    for row in rows:
        print("".join(f"{row[name]:>{width}{form}}" for name, width, form in TABLES[section]), flush=True)


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.exit(main())
