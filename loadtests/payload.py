"""The data that load tests publish: who sent a message, its number, and when it was sent."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def _machine_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:8]
    return f"{uuid.getnode():x}"


MACHINE_ID = _machine_id()
"""Identifies this machine and its boot: monotonic clocks of two processes agree only within one."""


@dataclass(frozen=True, slots=True)
class ReceivedPayload:
    """What the publisher wrote into a message that was delivered."""

    publisher: str
    number: int
    age_us: int | None
    """Microseconds since it was sent; None if another machine sent it, whose clock differs from ours."""


def build(publisher: str, number: int, *, padding: int = 0) -> dict[str, Any]:
    """Return the data of message *number* of *publisher*, sent now, with *padding* additional characters."""
    data: dict[str, Any] = {"by": publisher, "n": number, "at": time.monotonic_ns()}
    return {**data, "pad": "x" * padding} if padding else data


def parse(data: Any) -> ReceivedPayload | None:
    """Return what `build` wrote; None if *data* is not from `build`."""
    match data:
        case {"by": str(publisher), "n": int(number), "at": int(sent_ns)}:
            same_machine = publisher.startswith(MACHINE_ID)
            age_us = (time.monotonic_ns() - sent_ns) // 1000 if same_machine else None
            return ReceivedPayload(publisher, number, age_us)
    return None
