"""CPU time and memory of a process and its children, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CLOCK_TICK_SECONDS = 1.0 / os.sysconf("SC_CLK_TCK")


def cpu_seconds_by_process(pid: int) -> dict[int, float]:
    """Return the user and system time of *pid* and of each live child, in multiples of a clock tick."""
    seconds: dict[int, float] = {}
    for each in _process_tree(pid):
        with suppress(OSError):
            # The name, in parentheses, may contain anything; utime and stime are fields 14 and 15 (proc(5)).
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            seconds[each] = (int(fields[11]) + int(fields[12])) * CLOCK_TICK_SECONDS
    return seconds


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of *pid* and its live children together."""
    return sum(cpu_seconds_by_process(pid).values())


def memory_kib(pid: int) -> int:
    """Return the memory of *pid* and its live children in KiB; shared pages count in proportion (PSS)."""
    total = 0
    for each in _process_tree(pid):
        with suppress(OSError):
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def _process_tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in (task / "children").read_text().split():
                    yield from _process_tree(int(child))
