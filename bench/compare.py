"""Fan-out side by side: each server in turn on loopback, driven by `wsload`, a table for each scenario.

`make bench` compares this checkout with nginx's nchan; `--baseline main` compares it with that revision of
itself, `--peers fanway-redis,fanway` with itself without Redis. CPU is the processor time of the server, user
and system, by delivery, and that of Redis beside it: the least noisy figures here.
All of them depend on the machine and on what else runs there: compare within one run, in ratios.
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

from load import Row, built, conditions, measured
from peers import Peer, nchan, over_redis, revision, working_tree
from running import BenchError

SCENARIOS: dict[str, dict[str, float]] = {
    # A busy channel at a moderate rate: what one delivery costs.
    "fan": {"connections": 1000, "channels": 1, "rate": 40, "seconds": 5},
    # The same, as fast as it goes.
    "max": {"connections": 1000, "channels": 1, "publishers": 8, "seconds": 4},
    # Everyone alone in a channel: what one publish costs.
    "many": {"connections": 1000, "channels": 1000, "publishers": 16, "seconds": 4},
    # What a connection costs that does nothing.
    "idle": {"connections": 8000, "channels": 100, "rate": 1, "seconds": 1},
}
QUICK = {"connections": 50, "seconds": 0.5}
PEERS: dict[str, Callable[[], Peer | None]] = {
    "fanway": working_tree,
    "fanway-redis": over_redis,
    "nchan": nchan,
}
USUAL = ("fanway", "nchan")
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
COMPARED = {
    "fan": ("CPU µs", "p99 ms"),
    "max": ("CPU µs", "deliveries/s"),
    "many": ("CPU µs", "publishes/s"),
    "idle": ("KiB/conn", "connects/s"),
}
"""The figures that say most about each scenario, as ratios to the last peer's."""


def main() -> int:
    """Measure what the command line asks for; return the exit status."""
    asked = _arguments()
    try:
        with ExitStack() as stack:
            peers = _peers(asked, stack)
            wsload = built()
            rows = [
                row
                for name in asked.scenarios
                for row in _compared(name, _scenario(name, quick=asked.quick), peers, wsload, asked.repeat)
            ]
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if asked.json is not None:
        asked.json.write_text(json.dumps({"conditions": conditions(), "rows": rows}, indent=1) + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    every = ", ".join(SCENARIOS)
    parser.add_argument("--scenarios", type=_names, default=tuple(SCENARIOS), metavar="A,B", help=every)
    parser.add_argument("--peers", type=_peer_names, metavar="A,B", help=f"some of {', '.join(PEERS)}")
    parser.add_argument("--baseline", metavar="REV", help="compare with this git revision instead of nchan")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="take turns N times, show medians")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
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


def _peers(asked: argparse.Namespace, stack: ExitStack) -> list[Peer]:
    """Return the servers to compare, the one that the others are held against last."""
    if asked.baseline is not None:
        return [working_tree(), stack.enter_context(revision(asked.baseline))]
    peers = {name: PEERS[name]() for name in asked.peers or (USUAL[:1] if asked.quick else USUAL)}
    if None in peers.values():
        print(
            "bench: nchan is not installed (Debian: nginx-light libnginx-mod-nchan); without it then",
            file=sys.stderr,
        )
    return [peer for peer in peers.values() if peer is not None]


def _scenario(name: str, *, quick: bool) -> dict[str, float]:
    wanted = SCENARIOS[name]
    return wanted | QUICK | {"channels": min(wanted["channels"], QUICK["connections"])} if quick else wanted


def _compared(
    name: str, scenario: dict[str, float], peers: Sequence[Peer], wsload: Path, repeat: int
) -> list[Row]:
    """Return the figures of every run, and print the medians."""
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
        ratios = (f"{title} {row[title] / (medians[-1][title] or math.nan):.2f}" for title in COMPARED[name])
        print(f"{row['peer']} : {medians[-1]['peer']}   {'   '.join(ratios)}", flush=True)
    return rows


def _run(peer: Peer, scenario: dict[str, float], wsload: Path) -> Row:
    with peer.start() as server:
        return measured(server, scenario, wsload)


def _median(rows: Sequence[Row]) -> Row:
    """Return the one of *rows* whose CPU per delivery is in the middle."""
    middle = statistics.median_low(row["CPU µs"] for row in rows)
    return next(row for row in rows if row["CPU µs"] == middle)


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Inherited by every server: 8,000 connections need as many descriptors.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.exit(main())
