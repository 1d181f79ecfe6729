"""The memory that this process may use: that of the machine, or less in a container."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""The files of a limit, of cgroup v2 and v1; inside of a container its own group is the root."""


def available_memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of memory of the machine, or of the control group of this process if less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *filter(None, map(_limit_in, _files(groups)))])


def _files(groups: Path) -> list[Path]:
    """Return the files that may contain a limit: of the root, of the own group and those above."""
    files = [groups / name for name in _CGROUP_LIMITS]
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            name = _CGROUP_LIMITS[controllers == "memory"]
            root, _, file = (groups / name).as_posix().rpartition("/")
            group = Path(path.lstrip("/"))
            files += [Path(root) / each / file for each in (group, *group.parents)]
    return files


def _limit_in(file: Path) -> int | None:
    text = _read(file).strip()
    return int(text) if text.isdecimal() and int(text) else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
