"""Many warnings in a log that nobody reads; and outputs that are closed or full from the start."""

import asyncio
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.chaos.ports import reserved
from tests.e2e.clients import Client, RawConnection
from tests.e2e.gateway import (
    FANWAY,
    LOG_NAME,
    SECRET,
    TIMEOUT_SECONDS,
    gateway_process_logging_to,
    request,
)

PIPE_BYTES = 4096
"""Capacity of the pipe, the smallest one that Linux has."""
WARNINGS = 100
"""Each is a line of more than 41 bytes, so that together they would fill the pipe again."""


@contextmanager
def full_pipe() -> Iterator[int]:
    """Yield the end for writing of a pipe without room, which nobody reads."""
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.write(writer, b"-" * PIPE_BYTES)
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


async def cause_a_warning(port: int) -> None:
    with closing(await RawConnection.open(port)) as raw:
        await raw.send(b"no HTTP at all\r\n\r\n")
        await raw.read_to_end()


@pytest.mark.parametrize("dev", [True, False])
async def test_a_log_that_nobody_reads_stops_nothing(dev: bool, tmp_path: Path) -> None:
    (tmp_path / LOG_NAME).touch()
    settings = {"AUTH__ANONYMOUS": "true", "PUSH__KEYS": '["dev"]', "DRAIN__WINDOW": "0s"}
    with (
        full_pipe() as stderr,
        gateway_process_logging_to(stderr, tmp_path, "", settings, dev=dev) as gateway,
    ):
        async with asyncio.timeout(TIMEOUT_SECONDS), Client.open(gateway.public) as bystander:
            for _ in range(WARNINGS):
                await cause_a_warning(gateway.internal)
            assert await bystander.call("ping")
            assert (await request(gateway.public, "GET", "/healthz")).status_code == 200
            gateway.send_signal(signal.SIGTERM)
            assert await bystander.expect_close() == (4000, "drain")
            await gateway.wait_exited()


@contextmanager
def gateway_with_redirections(home: Path, public: int, internal: int, redirections: str) -> Iterator[None]:
    """Run `fanway serve` from a shell with *redirections*; SIGTERM must end it with status 0."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FANWAY_")}
    process = subprocess.Popen(
        [
            "bash",
            "-c",
            f"exec {FANWAY} serve --dev --port {public} --internal-port {internal} {redirections}",
        ],
        cwd=home,
        env={**inherited, "FANWAY_AUTH__SECRET": SECRET},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT_SECONDS) == 0
        finally:
            process.kill()


async def dropped_lines(internal: int) -> float:
    """Return `fanway_log_dropped_total` of the gateway on port *internal*, once it listens."""
    while True:
        try:
            text = (await request(internal, "GET", "/metrics")).text
        except httpx.TransportError:
            await asyncio.sleep(0.02)
        else:
            return float(text.partition("\nfanway_log_dropped_total ")[2].split()[0])


@pytest.mark.parametrize(
    ("redirections", "log_can_be_written"),
    [(">&-", True), ("2>&-", False), (">/dev/full 2>/dev/full", False), ("<&- >&- 2>&-", False)],
    ids=["stdout closed", "stderr closed", "both full", "all closed"],
)
async def test_outputs_that_cannot_be_written_to_are_no_error(
    redirections: str, log_can_be_written: bool, tmp_path: Path
) -> None:
    with (
        reserved() as public,
        reserved() as internal,
        gateway_with_redirections(tmp_path, public, internal, redirections),
    ):
        async with asyncio.timeout(TIMEOUT_SECONDS):
            assert (await dropped_lines(internal) == 0) is log_can_be_written
            async with Client.open(public) as client:
                assert await client.call("ping")
