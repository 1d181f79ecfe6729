"""What a run may be told, by `python -m loadtests` and by plain locust alike, and profiles that preset it."""

from __future__ import annotations

import argparse
import re
import secrets
from dataclasses import dataclass, fields
from typing import Any, Self

from loadtests.shapes import PLANS
from loadtests.slo import UNITS, MalformedObjective, parse
from loadtests.wire import CODECS

WEBSOCKET, PUSH = "ws://127.0.0.1:8000/v1/ws", "http://127.0.0.1:8001"


@dataclass(frozen=True, slots=True)
class Profile:
    """How large a run of a scenario is, and what it has to keep."""

    users: int
    spawn_rate: int
    duration: int
    """Seconds."""
    rate: float
    """Messages published in a second, by all together."""
    channels: int
    slo: str = ""


QUIET = "errors<=0, disconnects<=0"
"""Holds however slow the machine is."""

COMPLETE = f"{QUIET}, gaps<=0, unrecovered<=0"
"""Holds where nobody stays away for longer than history lasts."""

PROFILES: dict[str, dict[str, Profile]] = {
    # A test among others: whether it is right, not whether it is fast.
    "seconds": {
        "fanout": Profile(30, 100, 4, rate=100, channels=3, slo=QUIET),
        "chat": Profile(30, 100, 4, rate=120, channels=4, slo=QUIET),
    },
    # A small machine's load, well below what one locust process can take in (see docs/load-testing.md).
    "minutes": {
        "fanout": Profile(500, 100, 90, rate=20, channels=4, slo=f"{COMPLETE}, p99<=500ms, push.p99<=500ms"),
        "chat": Profile(
            300, 50, 90, rate=100, channels=30, slo=f"{COMPLETE}, p99<=500ms, publish.p99<=500ms"
        ),
    },
}


@dataclass(frozen=True, slots=True)
class Options:
    """What users read while a run goes on."""

    url: str
    push: str
    key: str
    secret: str
    rate: float
    channels: int
    backends: int
    batch: int
    size: int
    codec: str
    shape: str
    late: int
    slo: str
    seed: int
    prefix: str
    run: str
    artifacts: str

    @classmethod
    def of(cls, parsed: argparse.Namespace, host: str | None) -> Self:
        """Return what locust parsed; *host* is its own, which a worker has from its master."""
        given = {field.name: getattr(parsed, field.name) for field in fields(cls) if field.name != "url"}
        return cls(url=host or WEBSOCKET, **given)

    def channel_names(self) -> list[str]:
        """Return the channels of this run, which no other run uses."""
        return [f"{self.prefix}{self.run}.{index}" for index in range(self.channels)]


def add(parser: argparse.ArgumentParser, profile: Profile | None) -> None:
    """Let *parser* take everything in `Options` but the url.

    Without a *profile*, `rate`, `channels` and `slo` have no defaults, and whoever runs it fills them in.
    """
    preset: dict[str, Any] = {
        name: None if profile is None else getattr(profile, name) for name in ("rate", "channels", "slo")
    }
    option = parser.add_argument
    option("--push", metavar="URL", default=PUSH, help="the internal listener")
    option("--key", default="dev", help="a push key")
    option("--secret", default="", help="signs users' tokens; without it they are anonymous")
    option("--rate", type=float, default=preset["rate"], help="messages published a second, by all together")
    option("--channels", type=int, default=preset["channels"], help="how many channels there are")
    option("--backends", type=int, default=2, help="how many backends push (fanout)")
    option("--batch", type=int, default=10, help="messages in one batch (fanout)")
    option("--size", type=int, default=100, help="characters of padding in a message")
    option("--codec", choices=sorted(CODECS), default="both", help="what users speak")
    option("--shape", choices=sorted(PLANS), default="steady", help="how many users there are at each moment")
    option("--late", type=_microseconds, default="250ms", metavar="TIME", help="beyond it a message is late")
    option("--slo", type=_objectives, default=preset["slo"], help="to be kept, as in 'p99<=50ms, gaps<=0'")
    option("--seed", type=int, default=1, help="what users do follows from it")
    option("--prefix", default="load.", help="how channels' names begin; 'chat:' for a namespace")
    option("--run", default=secrets.token_hex(3), help="what tells this run's channels from others'")
    option("--artifacts", default="artifacts/loadtests", metavar="DIR", help="where the report goes as JSON")


def _microseconds(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *(us|µs|ms|s)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number and one of {', '.join(UNITS)}")
    return int(float(match[1]) * UNITS[match[2]])


def _objectives(text: str) -> str:
    try:
        parse(text)
    except MalformedObjective as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
