"""Run load tests, `python -m loadtests [fanout|chat|all]`, on a gateway started for them or a running one."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from loadtests import options, slo
from loadtests.gateway_process import GatewayFailed, GatewayProcess, run_gateway
from loadtests.options import PROFILES, Profile

SCENARIOS = Path(__file__).with_name("scenarios")
EXTRA_SECONDS = 120
"""How much longer than its duration a run may take: to start, to wait for deliveries, to disconnect."""

PROGRESS_SECONDS = 10.0
"""Between two lines that say how far a run is: locust itself prints nothing until its report."""

INTERRUPTED = 128 + signal.SIGINT
"""The exit code that shells expect of an interrupted program."""

MEBIBYTE = 1024 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios one after the other; return 0 if all passed, 1 if one failed.

    When interrupted, end the current scenario at once, with its report, and return 130.
    """
    parsed = parser().parse_args(arguments)
    names = list(PROFILES[parsed.profile]) if parsed.scenario == "all" else [parsed.scenario]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        exit_codes = {name: _run(name, parsed) for name in names}
    except KeyboardInterrupt:
        return INTERRUPTED
    if len(exit_codes) > 1:
        print(
            "\n" + "\n".join(f"{'FAILED' if code else 'PASSED'} {name}" for name, code in exit_codes.items())
        )
    return max(exit_codes.values())


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser("python -m loadtests", description=__doc__)
    option = made.add_argument
    option("scenario", nargs="?", default="all", choices=[*PROFILES["seconds"], "all"])
    option("--profile", choices=sorted(PROFILES), default="seconds", help="defaults of other options")
    option("--host", metavar="URL", help="public WebSocket URL; without it, a gateway is started")
    option(
        "--serve",
        default="",
        metavar="ARGUMENTS",
        help="additional arguments for the gateway that is started",
    )
    option("--users", type=int, help="number of subscribers (fanout) or people (chat)")
    option("--spawn-rate", type=float, help="users started per second")
    option("--duration", type=int, metavar="SECONDS", help="how long the run lasts")
    option("--processes", type=int, default=1, help="locust processes that share the users")
    options.add_arguments(made, None)
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
    profile = replace(preset, **given, slo=", ".join(map(_as_argument, objectives)))
    try:
        with _gateway(name, parsed) as gateway:
            exit_code = _run_locust(name, profile, parsed, gateway)
            return exit_code if gateway is None else max(exit_code, _report_unreleased(gateway))
    except GatewayFailed as error:
        print(f"FAILED {name}: {error}", flush=True)
        return 1


@contextmanager
def _gateway(name: str, parsed: argparse.Namespace) -> Iterator[GatewayProcess | None]:
    if parsed.host:
        yield None
    else:
        log = Path(parsed.artifacts) / f"{name}.gateway.log"
        with run_gateway(log, shlex.split(parsed.serve)) as gateway:
            yield gateway


def _run_locust(
    name: str, profile: Profile, parsed: argparse.Namespace, gateway: GatewayProcess | None
) -> int:
    """Run the scenario under locust in a child process; return its exit code."""
    target = (
        {"host": parsed.host, "push": parsed.push, "key": parsed.key, "secret": parsed.secret}
        if gateway is None
        else {"host": gateway.url, "push": gateway.push, "key": gateway.key, "secret": gateway.secret}
    )
    arguments = {
        **target,
        "users": profile.users,
        "spawn-rate": profile.spawn_rate,
        "run-time": f"{profile.duration}s",
        "rate": profile.rate,
        "channels": profile.channels,
        "slo": profile.slo,
        **{each: getattr(parsed, each) for each in ("backends", "batch", "size", "codec", "shape", "seed")},
        "late": f"{parsed.late}us",
        **{each: getattr(parsed, each) for each in ("prefix", "run", "artifacts")},
        **_process_options(parsed.processes),
    }
    command = [sys.executable, "-m", "locust", "-f", str(SCENARIOS / f"{name}.py")]
    # Locust's own tables round to milliseconds, and would follow the report: they go to a file.
    command += ["--headless", "--only-summary", "--loglevel=WARNING"]
    command += [f"--json-file={parsed.artifacts}/{name}.locust"]
    command += [f"--{option}={value}" for option, value in arguments.items()]
    # A session of its own: Ctrl-C in a terminal would interrupt the greenlet of some user; SIGTERM makes
    # locust print the report.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    try:
        return wait_with_progress(process, name, profile.duration)
    except subprocess.TimeoutExpired:
        print(f"FAILED {name}: locust did not exit in time", flush=True)
        return 1
    finally:
        _stop(process)


def wait_with_progress(
    process: subprocess.Popen[bytes], name: str, duration: float, *, interval: float = PROGRESS_SECONDS
) -> int:
    """Return the exit code of *process*; print on stderr, every *interval* seconds, how far the run is.

    `subprocess.TimeoutExpired` where it runs for `EXTRA_SECONDS` longer than *duration*.
    """
    begin = time.monotonic()
    while True:
        print(progress(name, time.monotonic() - begin, duration), file=sys.stderr, flush=True)
        left = begin + duration + EXTRA_SECONDS - time.monotonic()
        try:
            return process.wait(max(0.0, min(interval, left)))
        except subprocess.TimeoutExpired:
            if left <= interval:
                raise


def progress(name: str, elapsed: float, duration: float) -> str:
    """Return the line about the run *name*, *elapsed* seconds after its start."""
    if elapsed < duration:
        return f"{name}: {elapsed:.0f} of {duration:.0f} s"
    return f"{name}: waiting for the last deliveries and the report"


def _process_options(processes: int) -> dict[str, object]:
    """Return locust's options for several processes, which communicate over a free port of loopback."""
    if processes == 1:
        return {}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    master = {"master-host": "127.0.0.1", "master-port": port}
    return {"processes": processes, **master, "master-bind-host": "127.0.0.1", "master-bind-port": port}


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let locust print its report and exit; kill it if that takes too long, or on a second interrupt."""
    process.terminate()
    try:
        process.wait(EXTRA_SECONDS)
    finally:
        # The process group includes the workers that locust forked.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _report_unreleased(gateway: GatewayProcess) -> int:
    """Print what the gateway still holds after all clients disconnected; return 1 if that is anything."""
    held = gateway.unreleased_resources()
    resources = ", ".join(f"{count} {name}" for name, count in held.items()) or "nothing"
    memory_mib = gateway.resident_bytes() / MEBIBYTE
    print(
        f"after all clients disconnected the gateway holds {resources} for them; "
        f"it uses {memory_mib:.0f} MiB of memory",
        flush=True,
    )
    return 1 if held else 0


def _as_argument(objective: slo.Objective) -> str:
    return f"{objective.metric}{objective.sign}{objective.bound:f}{'us' if objective.is_time else ''}"


if __name__ == "__main__":
    sys.exit(main())
