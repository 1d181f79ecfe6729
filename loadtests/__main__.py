"""Run load tests, `python -m loadtests [fanout|chat|all]`: on a gateway of their own, or one that runs."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from loadtests import options, slo
from loadtests.options import PROFILES, Profile
from loadtests.serving import Gateway, NotServing, serving

SCENARIOS = Path(__file__).with_name("scenarios")
GRACE = 120
"""Seconds that a run may take beyond its duration: to start, to settle, to say goodbye."""

INTERRUPTED = 128 + signal.SIGINT
"""What shells expect of who was interrupted."""

MEBIBYTE = 1024 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, one scenario after the other; return 0 where all passed, 1 where one failed.

    Interrupted, the scenario under way ends at once, with its report, and 130 is returned.
    """
    parsed = parser().parse_args(arguments)
    names = list(PROFILES[parsed.profile]) if parsed.scenario == "all" else [parsed.scenario]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = {name: _run(name, parsed) for name in names}
    except KeyboardInterrupt:
        return INTERRUPTED
    if len(results) > 1:
        print("\n" + "\n".join(f"{'FAILED' if code else 'PASSED'} {name}" for name, code in results.items()))
    return max(results.values())


def parser() -> argparse.ArgumentParser:
    """Return what understands the command line."""
    made = argparse.ArgumentParser("python -m loadtests", description=__doc__)
    option = made.add_argument
    option("scenario", nargs="?", default="all", choices=[*PROFILES["seconds"], "all"])
    option("--profile", choices=sorted(PROFILES), default="seconds", help="presets what is not given")
    option("--host", metavar="URL", help="the public WebSocket; without it, a gateway is started")
    option("--serve", default="", metavar="ARGUMENTS", help="further ones for the gateway that is started")
    option("--users", type=int, help="subscribers or people")
    option("--spawn-rate", type=float, help="users that come in a second")
    option("--duration", type=int, metavar="SECONDS", help="how long they stay")
    option("--processes", type=int, default=1, help="locust processes that share the users")
    options.add(made, None)
    return made


def _run(name: str, parsed: argparse.Namespace) -> int:
    """Run the scenario *name*; return its exit code."""
    preset = PROFILES[parsed.profile][name]
    given = {
        field: value
        for field in ("users", "spawn_rate", "duration", "rate", "channels")
        if (value := getattr(parsed, field)) is not None
    }
    objectives = slo.override(slo.parse(preset.slo), slo.parse(parsed.slo or ""))
    profile = replace(preset, **given, slo=", ".join(map(_given, objectives)))
    try:
        with _gateway(name, parsed) as gateway:
            code = _locust(name, profile, parsed, gateway)
            return code if gateway is None else max(code, _left(gateway))
    except NotServing as error:
        print(f"FAILED {name}: {error}", flush=True)
        return 1


@contextmanager
def _gateway(name: str, parsed: argparse.Namespace) -> Iterator[Gateway | None]:
    if parsed.host:
        yield None
    else:
        log = Path(parsed.artifacts) / f"{name}.gateway.log"
        with serving(log, shlex.split(parsed.serve)) as gateway:
            yield gateway


def _locust(name: str, profile: Profile, parsed: argparse.Namespace, gateway: Gateway | None) -> int:
    place = (
        {"host": parsed.host, "push": parsed.push, "key": parsed.key, "secret": parsed.secret}
        if gateway is None
        else {"host": gateway.url, "push": gateway.push, "key": gateway.key, "secret": gateway.secret}
    )
    told = {
        **place,
        "users": profile.users,
        "spawn-rate": profile.spawn_rate,
        "run-time": f"{profile.duration}s",
        "rate": profile.rate,
        "channels": profile.channels,
        "slo": profile.slo,
        **{each: getattr(parsed, each) for each in ("backends", "batch", "size", "codec", "shape", "seed")},
        "late": f"{parsed.late}us",
        **{each: getattr(parsed, each) for each in ("prefix", "run", "artifacts")},
        **_shared(parsed.processes),
    }
    command = [sys.executable, "-m", "locust", "-f", str(SCENARIOS / f"{name}.py")]
    # Its own tables round to milliseconds, and would come after the report: to a file.
    command += ["--headless", "--only-summary", "--loglevel=WARNING"]
    command += [f"--json-file={parsed.artifacts}/{name}.locust"]
    command += [f"--{option}={value}" for option, value in told.items()]
    # Out of reach of a terminal's Ctrl-C, which would strike some user's greenlet; SIGTERM makes it report.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    try:
        return process.wait(profile.duration + GRACE)
    except subprocess.TimeoutExpired:
        print(f"FAILED {name}: locust did not end", flush=True)
        return 1
    finally:
        _end(process)


def _shared(processes: int) -> dict[str, object]:
    """Return locust's options for several processes, which talk over a free port of loopback."""
    if processes == 1:
        return {}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    master = {"master-host": "127.0.0.1", "master-port": port}
    return {"processes": processes, **master, "master-bind-host": "127.0.0.1", "master-bind-port": port}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have locust report and end; kill it where that takes too long, or we are interrupted again."""
    process.terminate()
    try:
        process.wait(GRACE)
    finally:
        # With whatever processes it forked.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _left(gateway: Gateway) -> int:
    """Tell what the gateway still holds after everybody has left; return 1 where that is anything."""
    held = gateway.leftovers()
    what = ", ".join(f"{count} {name}" for name, count in held.items()) or "nothing"
    memory = gateway.memory() / MEBIBYTE
    print(f"the gateway holds {what} for clients who left, and {memory:.0f} MiB in all", flush=True)
    return 1 if held else 0


def _given(objective: slo.Objective) -> str:
    return f"{objective.metric}{objective.sign}{objective.bound:f}{'us' if objective.is_time else ''}"


if __name__ == "__main__":
    sys.exit(main())
