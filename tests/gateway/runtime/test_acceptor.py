"""Accepting connections when there are no file descriptors."""

import asyncio
import errno
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from gateway.runtime import acceptor
from gateway.runtime.acceptor import Acceptor

TIMEOUT_SECONDS = 20.0


class Greeter(asyncio.Protocol):
    """Greets, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)
        stream.write(b"hello")
        stream.close()


@contextmanager
def accepting(on_exhausted: Callable[[OSError], None]) -> Iterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0)
    port = listening.getsockname()[1]
    accepting = Acceptor(listening, Greeter, on_exhausted=on_exhausted)
    try:
        yield port
    finally:
        accepting.close()
        accepting.close()


async def greeting(client: socket.socket) -> bytes:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return await asyncio.get_running_loop().sock_recv(client, 100)


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as client:
        client.setblocking(False)
        yield client


async def test_connections_are_accepted() -> None:
    with accepting(lambda _: None) as port, connected(port) as client:
        assert await greeting(client) == b"hello"


async def test_without_descriptors_it_waits_and_then_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "RETRY_SECONDS", 0.001)
    errors: list[int | None] = []
    third = asyncio.Event()

    def on_exhausted(error: OSError) -> None:
        errors.append(error.errno)
        if len(errors) == 3:
            third.set()

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with accepting(on_exhausted) as port, connected(port) as client:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await third.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await greeting(client) == b"hello"
    assert set(errors) == {errno.EMFILE}


async def test_between_two_attempts_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """libuv itself would try again in every turn of the event loop."""
    monkeypatch.setattr(acceptor, "RETRY_SECONDS", 3_600.0)
    errors: list[OSError] = []
    failed = asyncio.Event()

    def on_exhausted(error: OSError) -> None:
        errors.append(error)
        failed.set()

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with accepting(on_exhausted) as port, connected(port):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await failed.wait()
            for _ in range(100):
                await asyncio.sleep(0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(errors) == 1
