"""One run of `wsload` against a server: what was delivered, and the CPU time and memory of each process."""
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

from child_processes import BenchError
from process_costs import cpu_seconds, cpu_seconds_by_process, memory_kib
from servers import Server

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build"
SETTLE_SECONDS = 0.5
"""How long after the last handshake memory is read."""

RUN_TIMEOUT_SECONDS = 120.0

Row = dict[str, Any]
"""The figures of one run, by the titles of the tables' columns."""


def build_wsload() -> Path:
    """Return the path of `wsload`; compile it if its source is newer."""
    source, target = HERE / "wsload.c", BUILD / "wsload"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(exist_ok=True)
        new_binary = target.with_suffix(f".{os.getpid()}")
        command = [os.environ.get("CC", "cc"), "-O2", "-pthread", "-o", str(new_binary), str(source)]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BenchError(f"wsload cannot be compiled: {error}") from None
        new_binary.replace(target)
    return target


def measure(
    server: Server, scenario: Mapping[str, float], wsload: Path, *, arguments: Sequence[str] | None = None
) -> Row:
    """Return the figures of *scenario* on *server*; `wsload` gets *arguments*, by default the server's."""
    scenario_arguments = [f"--{key}={value:g}" for key, value in scenario.items()]
    command = [str(wsload), *(server.arguments if arguments is None else arguments), *scenario_arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        watchdog = Timer(RUN_TIMEOUT_SECONDS, process.kill)
        watchdog.start()
        try:
            return _measure(server, process)
        finally:
            watchdog.cancel()
            process.kill()


def _measure(server: Server, wsload: subprocess.Popen[str]) -> Row:
    kib_without_connections = memory_kib(server.pid)
    ready = _read_line(wsload)
    time.sleep(SETTLE_SECONDS)
    kib_with_connections = memory_kib(server.pid)
    before, redis_before = cpu_seconds_by_process(server.pid), _redis_cpu_seconds(server)
    started = time.monotonic()
    if wsload.stdin is not None:
        wsload.stdin.write("go\n")
        wsload.stdin.flush()
    result = _read_line(wsload)
    elapsed = time.monotonic() - started
    after, redis_after = cpu_seconds_by_process(server.pid), _redis_cpu_seconds(server)
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
        "KiB/conn": (kib_with_connections - kib_without_connections) / max(1, ready["ready"]),
        "closed": result["closed"],
        "refused": result["refused"],
        "published": result["published"],
        "workers used": [seconds / elapsed for seconds in workers.values()],
        "Redis used": (redis_after - redis_before) / elapsed,
        "load used": result["cpu_s"] / elapsed,
    }


def _redis_cpu_seconds(server: Server) -> float:
    """Return the CPU seconds of the server's Redis; 0 if it has none."""
    return 0.0 if server.redis is None else cpu_seconds(server.redis.pid)


def _read_line(wsload: subprocess.Popen[str]) -> Row:
    line = wsload.stdout.readline() if wsload.stdout is not None else ""
    if not line:
        raise BenchError("wsload exited early; its output is above")
    decoded: Row = json.loads(line)
    return decoded


def conditions() -> Row:
    """Return the conditions that the figures depend on: versions, processors, load."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
    }
