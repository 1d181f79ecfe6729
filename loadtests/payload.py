"""What load tests publish: who sent it, its number, and when."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def _machine() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:8]
    return f"{uuid.getnode():x}"


MACHINE = _machine()
"""Names the machine and its boot: two processes may compare their monotonic clocks only within one."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that arrived, as far as its publisher wrote it."""

    by: str
    number: int
    age: int | None
    """Microseconds since it was sent; None where that was on another machine, whose clock is not ours."""


def write(by: str, number: int, *, size: int = 0) -> dict[str, Any]:
    """Return the data of message *number* of *by*, sent now, with *size* characters of padding."""
    data: dict[str, Any] = {"by": by, "n": number, "at": time.monotonic_ns()}
    return {**data, "pad": "x" * size} if size else data


def read(data: Any) -> Letter | None:
    """Return what `write` wrote; None where it did not write this."""
    match data:
        case {"by": str(by), "n": int(number), "at": int(sent)}:
            ours = by.startswith(MACHINE)
            return Letter(by, number, (time.monotonic_ns() - sent) // 1000 if ours else None)
    return None
