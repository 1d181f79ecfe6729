"""Compare the fan-out of several servers, each in turn on loopback, loaded by `wsload`; a table per scenario.

`make bench` compares this checkout with nginx's nchan; `--baseline main` compares it with that git revision,
`--peers fanway-redis,fanway` compares it with and without Redis. CPU is the server's processor time, user and
system, per delivery, and that of Redis in its own column: the figures with the least noise.
All figures depend on the machine and on what else runs there: compare ratios within one run.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from child_processes import BenchError
from servers import Peer, nchan, revision, with_redis, working_tree
from wsload_run import Row, build_wsload, conditions, measure

SCENARIOS: dict[str, dict[str, float]] = {
    # One channel at a moderate rate: the cost of one delivery.
    "fan": {"connections": 1000, "channels": 1, "rate": 40, "seconds": 5},
    # The same, as fast as possible.
    "max": {"connections": 1000, "channels": 1, "publishers": 8, "seconds": 4},
    # One subscriber per channel: the cost of one publish.
    "many": {"connections": 1000, "channels": 1000, "publishers": 16, "seconds": 4},
    # The cost of a connection without traffic.
    "idle": {"connections": 8000, "channels": 100, "rate": 1, "seconds": 1},
}
QUICK = {"connections": 50, "seconds": 0.5}
PEERS: dict[str, Callable[[], Peer | None]] = {
    "fanway": working_tree,
    "fanway-redis": with_redis,
    "nchan": nchan,
}
DEFAULT_PEERS = ("fanway", "nchan")
COLUMNS = (
    ("delivered/expected", 22, ""),
    ("deliveries/s", 13, ",.0f"),
    ("publishes/s", 12, ",.0f"),
    ("CPU µs", 8, ".2f"),
    ("Redis µs", 9, ".2f"),
    ("p50 ms", 8, ".2f"),
    ("p99 ms", 8, ".2f"),
    ("max ms", 8, ".1f"),
    ("connects/s", 11, ",.0f"),
    ("KiB/conn", 9, ".1f"),
    ("closed", 7, "d"),
)
RATIO_COLUMNS = {
    "fan": ("CPU µs", "p99 ms"),
    "max": ("CPU µs", "deliveries/s"),
    "many": ("CPU µs", "publishes/s"),
    "idle": ("KiB/conn", "connects/s"),
}
"""The figures of each scenario that are printed as ratios to those of the last peer."""


def main() -> int:
    """Run the scenarios that the command line selects; return the exit status."""
    options = _parse_arguments()
    try:
        with ExitStack() as stack:
            peers = _peers(options, stack)
            wsload = build_wsload()
            rows = [
                row
                for name in options.scenarios
                for row in _compare(name, _scenario(name, quick=options.quick), peers, wsload, options.repeat)
            ]
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_text(json.dumps({"conditions": conditions(), "rows": rows}, indent=1) + "\n")
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    every = ", ".join(SCENARIOS)
    parser.add_argument("--scenarios", type=_names, default=tuple(SCENARIOS), metavar="A,B", help=every)
    parser.add_argument("--peers", type=_peer_names, metavar="A,B", help=f"some of {', '.join(PEERS)}")
    parser.add_argument("--baseline", metavar="REV", help="compare with this git revision instead of nchan")
    parser.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="run each N times, in turn, and print medians"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE as well")
    parser.add_argument("--quick", action="store_true", help="50 connections for half a second, no nchan")
    return parser.parse_args()


def _peer_names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(PEERS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: expected some of {', '.join(PEERS)}")
    return names


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - SCENARIOS.keys():
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: expected some of {', '.join(SCENARIOS)}"
        )
    return names


def _peers(options: argparse.Namespace, stack: ExitStack) -> list[Peer]:
    """Return the servers to compare; ratios are to the last one."""
    if options.baseline is not None:
        return [working_tree(), stack.enter_context(revision(options.baseline))]
    peers = {
        name: PEERS[name]()
        for name in options.peers or (DEFAULT_PEERS[:1] if options.quick else DEFAULT_PEERS)
    }
    if None in peers.values():
        print(
            "bench: nchan is not installed (Debian: nginx-light libnginx-mod-nchan); it is left out",
            file=sys.stderr,
        )
    return [peer for peer in peers.values() if peer is not None]


def _scenario(name: str, *, quick: bool) -> dict[str, float]:
    scenario = SCENARIOS[name]
    if not quick:
        return scenario
    return scenario | QUICK | {"channels": min(scenario["channels"], QUICK["connections"])}


def _compare(
    name: str, scenario: dict[str, float], peers: Sequence[Peer], wsload: Path, repeat: int
) -> list[Row]:
    """Run the scenario *name* on every peer; print the medians, and return the figures of every run."""
    print(f"\n== {name}: {', '.join(f'{key} {value:g}' for key, value in scenario.items())}")
    print(f"{'':12}" + "".join(f"{title:>{width}}" for title, width, _ in COLUMNS), flush=True)
    rows = [
        {"scenario": name, "peer": peer.name} | _run(peer, scenario, wsload)
        for _ in range(repeat)
        for peer in peers
    ]
    medians = [_median([row for row in rows if row["peer"] == peer.name]) for peer in peers]
    for row in medians:
        cells = (f"{row[title]:>{width}{form}}" for title, width, form in COLUMNS)
        print(f"{row['peer']:12}" + "".join(cells), flush=True)
    for row in medians[:-1]:
        ratios = (
            f"{title} {row[title] / (medians[-1][title] or math.nan):.2f}" for title in RATIO_COLUMNS[name]
        )
        print(f"{row['peer']} : {medians[-1]['peer']}   {'   '.join(ratios)}", flush=True)
    return rows


def _run(peer: Peer, scenario: dict[str, float], wsload: Path) -> Row:
    with peer.start() as server:
        return measure(server, scenario, wsload)


def _median(rows: Sequence[Row]) -> Row:
    """Return the row with the median CPU per delivery."""
    middle = statistics.median_low(row["CPU µs"] for row in rows)
    return next(row for row in rows if row["CPU µs"] == middle)


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Inherited by every server: 8,000 connections need as many file descriptors.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.exit(main())
