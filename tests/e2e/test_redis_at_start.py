"""What `fanway serve --redis URL` prints at its start, with its Redis and without."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.broker.redis_server import RedisServer
from tests.e2e.gateway import FANWAY, TIMEOUT_SECONDS

ADDRESSES = ["clients", "backends"]
SUGGESTIONS = ["demo", "try"]


@contextmanager
def serving(home: Path, url: str, *options: str) -> Iterator[IO[str]]:
    """Run a gateway in *home* with the Redis at *url*; yields its stdout."""
    command = [FANWAY, "serve", "--dev", "--port", "0", "--internal-port", "0", "--redis", url, *options]
    with (home / "stderr.log").open("w") as log:
        process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=log, text=True)
    with process:
        assert process.stdout is not None
        try:
            yield process.stdout
            process.terminate()
            assert process.wait(TIMEOUT_SECONDS) == 0
        finally:
            process.kill()


def first_words(stdout: IO[str], lines: int) -> list[str]:
    return [stdout.readline().split()[0] for _ in range(lines)]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_its_redis_it_says_so_and_is_ready_when_it_is_there(
    redis: RedisServer, tmp_path: Path, workers: str
) -> None:
    redis.kill()
    with serving(tmp_path, redis.url, "--workers", workers) as stdout:
        waiting = stdout.readline()
        assert waiting == "waiting   Redis is not reachable yet: clients and publishes get 503 until it is\n"
        assert first_words(stdout, 2) == ADDRESSES
        redis.start()
        assert stdout.readline() == "ready     Redis is reachable\n"
        assert first_words(stdout, 2) == SUGGESTIONS


@pytest.mark.parametrize("workers", ["1", "2"])
def test_with_its_redis_it_prints_the_addresses_only(
    redis: RedisServer, tmp_path: Path, workers: str
) -> None:
    with serving(tmp_path, redis.url, "--workers", workers) as stdout:
        assert first_words(stdout, 4) == ADDRESSES + SUGGESTIONS
