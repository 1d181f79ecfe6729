"""Fan-out side by side: each server in turn on loopback, driven by `wsload`, a table for each scenario.

`make bench` compares this checkout with nginx's nchan; `--baseline main` compares it with that revision of
itself. CPU is the processor time of the server, user and system, by delivery: the least noisy figure here.
All of them depend on the machine and on what else runs there: compare within one run, in ratios.
"""
# ruff: noqa: S603 (to run programs is what a bench does)

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Timer
from typing import Any

from peers import BenchError, Peer, Server, nchan, revision, working_tree
from process import cpu_seconds, memory_kib

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build"
AT_REST = 0.5
"""Seconds after the last handshake before memory is read."""
PATIENCE = 120.0
"""Seconds that a run may take in all."""

Row = dict[str, Any]

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
COLUMNS = (
    ("delivered/expected", 22, ""),
    ("deliveries/s", 13, ",.0f"),
    ("publishes/s", 12, ",.0f"),
    ("CPU µs", 8, ".2f"),
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
            wsload = _built()
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
    parser.add_argument("--baseline", metavar="REV", help="compare with this git revision instead of nchan")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="take turns N times, show medians")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    parser.add_argument("--quick", action="store_true", help="50 connections for half a second, no nchan")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - SCENARIOS.keys():
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: expected some of {', '.join(SCENARIOS)}"
        )
    return names


def _peers(asked: argparse.Namespace, stack: ExitStack) -> list[Peer]:
    """Return the servers to compare, the one that the others are held against last."""
    here = working_tree()
    if asked.baseline is not None:
        return [here, stack.enter_context(revision(asked.baseline))]
    if asked.quick:
        return [here]
    other = nchan()
    if other is None:
        print(
            "bench: nchan is not installed (Debian: nginx-light libnginx-mod-nchan); Fanway alone",
            file=sys.stderr,
        )
    return [here] if other is None else [here, other]


def _scenario(name: str, *, quick: bool) -> dict[str, float]:
    wanted = SCENARIOS[name]
    return wanted | QUICK | {"channels": min(wanted["channels"], QUICK["connections"])} if quick else wanted


def _built() -> Path:
    """Return `wsload`, compiled if its source is newer."""
    source, target = HERE / "wsload.c", BUILD / "wsload"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(exist_ok=True)
        fresh = target.with_suffix(f".{os.getpid()}")
        command = [os.environ.get("CC", "cc"), "-O2", "-pthread", "-o", str(fresh), str(source)]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BenchError(f"wsload cannot be compiled: {error}") from None
        fresh.replace(target)
    return target


def _compared(
    name: str, scenario: dict[str, float], peers: Sequence[Peer], wsload: Path, repeat: int
) -> list[Row]:
    """Return the figures of every run, and print the medians."""
    print(f"\n== {name}: {', '.join(f'{key} {value:g}' for key, value in scenario.items())}")
    print(f"{'':12}" + "".join(f"{title:>{width}}" for title, width, _ in COLUMNS), flush=True)
    rows = [
        {"scenario": name, "peer": peer.name} | measured(peer, scenario, wsload)
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


def _median(rows: Sequence[Row]) -> Row:
    """Return the one of *rows* whose CPU per delivery is in the middle."""
    middle = statistics.median_low(row["CPU µs"] for row in rows)
    return next(row for row in rows if row["CPU µs"] == middle)


def measured(peer: Peer, scenario: dict[str, float], wsload: Path) -> Row:
    """Return the figures of one run against a fresh server."""
    arguments = [f"--{key}={value:g}" for key, value in scenario.items()]
    with peer.start() as server:
        command = [str(wsload), *server.arguments, *arguments]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as load:
            watchdog = Timer(PATIENCE, load.kill)
            watchdog.start()
            try:
                return _figures(server, load)
            finally:
                watchdog.cancel()
                load.kill()


def _figures(server: Server, load: subprocess.Popen[str]) -> Row:
    empty = memory_kib(server.pid)
    ready = _said(load)
    time.sleep(AT_REST)
    full = memory_kib(server.pid)
    before = cpu_seconds(server.pid)
    if load.stdin is not None:
        load.stdin.write("go\n")
        load.stdin.flush()
    result = _said(load)
    spent = cpu_seconds(server.pid) - before
    seconds = result["seconds"] or 1.0
    return {
        "delivered/expected": f"{result['delivered']}/{result['expected']}",
        "deliveries/s": result["delivered"] / seconds,
        "publishes/s": result["published"] / seconds,
        "CPU µs": spent * 1e6 / max(1, result["delivered"]),
        "p50 ms": result["latency_ms"]["p50"],
        "p99 ms": result["latency_ms"]["p99"],
        "max ms": result["latency_ms"]["max"],
        "connects/s": ready["ready"] / max(ready["connect_s"], 1e-3),
        "KiB/conn": (full - empty) / max(1, ready["ready"]),
        "closed": result["closed"],
        "refused": result["refused"],
    }


def _said(load: subprocess.Popen[str]) -> Row:
    line = load.stdout.readline() if load.stdout is not None else ""
    if not line:
        raise BenchError("wsload ended early; what it said is above")
    said: Row = json.loads(line)
    return said


def conditions() -> Row:
    """Return what the figures depend on."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Inherited by every server: 8,000 connections need as many descriptors.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.exit(main())
