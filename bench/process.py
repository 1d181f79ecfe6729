"""What a server costs: processor time and memory of a process and its children, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def cpu_by_process(pid: int) -> dict[int, float]:
    """Return the user and system time that *pid* and its live children each took, in steps of `TICK`."""
    taken: dict[int, float] = {}
    for each in _tree(pid):
        with suppress(OSError):
            # The name, in parentheses, may hold anything; utime and stime are fields 14 and 15 (proc(5)).
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            taken[each] = (int(fields[11]) + int(fields[12])) * TICK
    return taken


def memory_kib(pid: int) -> int:
    """Return the KiB that *pid* and its live children hold; what they share, in proportion (PSS)."""
    total = 0
    for each in _tree(pid):
        with suppress(OSError):
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in (task / "children").read_text().split():
                    yield from _tree(int(child))
