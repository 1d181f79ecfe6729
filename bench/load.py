"""`wsload` against a server: what came through, and what each process paid for it."""
# ruff: noqa: S603 (to run programs is what a bench does)

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Timer
from typing import Any

from peers import Server
from process import cpu_by_process, memory_kib
from running import BenchError

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build"
AT_REST = 0.5
"""Seconds after the last handshake before memory is read."""
PATIENCE = 120.0
"""Seconds that a run may take in all."""

Row = dict[str, Any]


def built() -> Path:
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


def measured(
    server: Server, scenario: Mapping[str, float], wsload: Path, *, arguments: Sequence[str] | None = None
) -> Row:
    """Return the figures of one run against *server*, reached by *arguments*, by default its own."""
    numbers = [f"--{key}={value:g}" for key, value in scenario.items()]
    command = [str(wsload), *(server.arguments if arguments is None else arguments), *numbers]
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
    before, redis_before = costs(server)
    begun = time.monotonic()
    if load.stdin is not None:
        load.stdin.write("go\n")
        load.stdin.flush()
    result = _said(load)
    elapsed = time.monotonic() - begun
    after, redis_after = costs(server)
    workers = {pid: after[pid] - before.get(pid, 0.0) for pid in after}
    delivered = max(1, result["delivered"])
    seconds = result["seconds"] or 1.0
    return {
        "delivered/expected": f"{result['delivered']}/{result['expected']}",
        "deliveries/s": result["delivered"] / seconds,
        "publishes/s": result["published"] / seconds,
        "CPU µs": sum(workers.values()) * 1e6 / delivered,
        "Redis µs": (redis_after - redis_before) * 1e6 / delivered,
        "load µs": result["cpu_s"] * 1e6 / delivered,
        "p50 ms": result["latency_ms"]["p50"],
        "p99 ms": result["latency_ms"]["p99"],
        "max ms": result["latency_ms"]["max"],
        "connects/s": ready["ready"] / max(ready["connect_s"], 1e-3),
        "KiB/conn": (full - empty) / max(1, ready["ready"]),
        "closed": result["closed"],
        "refused": result["refused"],
        "published": result["published"],
        "workers used": [taken / elapsed for taken in workers.values()],
        "Redis used": (redis_after - redis_before) / elapsed,
        "load used": result["cpu_s"] / elapsed,
    }


def costs(server: Server) -> tuple[dict[int, float], float]:
    """Return the CPU seconds that each process of *server* has taken, and those of its Redis."""
    store = server.redis
    return cpu_by_process(server.pid), 0.0 if store is None else sum(cpu_by_process(store.pid).values())


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
