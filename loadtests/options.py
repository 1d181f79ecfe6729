"""The command line options of `python -m loadtests` and plain locust, and the profiles that preset them."""

from __future__ import annotations

import argparse
import re
import secrets
from dataclasses import dataclass, fields
from typing import Any, Self

from loadtests.codecs import CODECS
from loadtests.slo import MICROSECONDS_PER_UNIT, MalformedObjective, parse
from loadtests.user_count_plans import PLANS

DEFAULT_WEBSOCKET_URL, DEFAULT_PUSH_URL = "ws://127.0.0.1:8000/v1/ws", "http://127.0.0.1:8001"


@dataclass(frozen=True, slots=True)
class Profile:
    """The size of a run of a scenario, and the objectives it must meet."""

    users: int
    spawn_rate: int
    duration: int
    """Seconds."""
    rate: float
    """Messages published per second, by all users together."""
    channels: int
    slo: str = ""


NO_ERRORS = "errors<=0, disconnects<=0"
"""Can be met however slow the machine is."""

NO_ERRORS_NO_GAPS = f"{NO_ERRORS}, gaps<=0, unrecovered<=0"
"""Can be met where nobody is disconnected for longer than the history reaches back."""

PROFILES: dict[str, dict[str, Profile]] = {
    # Part of the test suite: checks correctness, not speed.
    "seconds": {
        "fanout": Profile(30, 100, 4, rate=100, channels=3, slo=NO_ERRORS),
        "chat": Profile(30, 100, 4, rate=120, channels=4, slo=NO_ERRORS),
    },
    # A load for a small machine, well below what one locust process can receive
    # (docs/load-testing.md#what-one-process-can-take).
    "minutes": {
        "fanout": Profile(
            500, 100, 90, rate=20, channels=4, slo=f"{NO_ERRORS_NO_GAPS}, p99<=500ms, push.p99<=500ms"
        ),
        "chat": Profile(
            300, 50, 90, rate=100, channels=30, slo=f"{NO_ERRORS_NO_GAPS}, p99<=500ms, publish.p99<=500ms"
        ),
    },
}


@dataclass(frozen=True, slots=True)
class Options:
    """The options that users read during a run."""

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
    def from_arguments(cls, parsed: argparse.Namespace, host: str | None) -> Self:
        """Return what locust parsed; *host* is locust's own option, which a worker gets from its master."""
        given = {field.name: getattr(parsed, field.name) for field in fields(cls) if field.name != "url"}
        return cls(url=host or DEFAULT_WEBSOCKET_URL, **given)

    def channel_names(self) -> list[str]:
        """Return the names of the channels of this run, which no other run uses."""
        return [f"{self.prefix}{self.run}.{index}" for index in range(self.channels)]


def add_arguments(parser: argparse.ArgumentParser, profile: Profile | None) -> None:
    """Add every option in `Options` but the url to *parser*.

    Without a *profile*, `rate`, `channels` and `slo` default to None.
    """
    defaults: dict[str, Any] = {
        name: None if profile is None else getattr(profile, name) for name in ("rate", "channels", "slo")
    }
    option = parser.add_argument
    option("--push", metavar="URL", default=DEFAULT_PUSH_URL, help="URL of the internal listener")
    option("--key", default="dev", help="a push key")
    option("--secret", default="", help="signs the users' tokens; without it users are anonymous")
    option(
        "--rate",
        type=float,
        default=defaults["rate"],
        help="messages published per second, by all users together",
    )
    option("--channels", type=int, default=defaults["channels"], help="number of channels")
    option("--backends", type=int, default=2, help="number of publishing backends (fanout)")
    option("--batch", type=int, default=10, help="messages in one batch (fanout)")
    option("--size", type=int, default=100, help="characters of padding in a message")
    option(
        "--codec",
        choices=sorted(CODECS),
        default="both",
        help="encoding that users speak; both: users alternate",
    )
    option("--shape", choices=sorted(PLANS), default="steady", help="number of users over time")
    option(
        "--late",
        type=_microseconds,
        default="250ms",
        metavar="TIME",
        help="a message that takes longer is late",
    )
    option(
        "--slo",
        type=_objectives,
        default=defaults["slo"],
        help="objectives to meet, for example 'p99<=50ms, gaps<=0'",
    )
    option("--seed", type=int, default=1, help="seed of what users do")
    option("--prefix", default="load.", help="prefix of channel names; 'chat:' for a namespace")
    option("--run", default=secrets.token_hex(3), help="part of channel names that separates runs")
    option("--artifacts", default="artifacts/loadtests", metavar="DIR", help="directory of the JSON report")


def _microseconds(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *(us|µs|ms|s)", text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a number and one of {', '.join(MICROSECONDS_PER_UNIT)}"
        )
    return int(float(match[1]) * MICROSECONDS_PER_UNIT[match[2]])


def _objectives(text: str) -> str:
    try:
        parse(text)
    except MalformedObjective as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
