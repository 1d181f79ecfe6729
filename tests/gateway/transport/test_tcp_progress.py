import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from gateway.transport.tcp_progress import UNKNOWN, disable_user_timeout, tcp_progress

WINDOW = 4096


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.Transport, socket.socket]]:
    """Yield asyncio's transport of a connection, and the socket of the other end with a small window."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as peer:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 7_000)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        peer.connect(listener.getsockname())
        accepted, _ = listener.accept()
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=accepted)
        try:
            yield transport, peer
        finally:
            transport.abort()
            await asyncio.sleep(0)


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> asyncio.Runner:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    return asyncio.Runner(loop_factory=factory)


def test_progress_counts_what_is_written_acknowledged_and_received(runner: asyncio.Runner) -> None:
    async def check() -> None:
        async with connected() as (transport, peer):
            assert tcp_progress(transport) == UNKNOWN
            transport.write(b"x" * 1_000)
            assert peer.recv(1_000, socket.MSG_WAITALL) == b"x" * 1_000
            peer.sendall(b"y")
            while (progress := tcp_progress(transport)).acknowledged < 1_000:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert progress[:3] == (1_000, 1_000, 0.0)
            assert progress.seconds_since_received < 60.0
            transport.write(b"x" * 5_000_000)
            progress = tcp_progress(transport)
            assert progress.written == 5_001_000
            assert 1_000 <= progress.acknowledged < 5_001_000

    with runner:
        runner.run(check())


def test_connection_of_which_bytes_wait_is_stalled_while_none_is_sent(runner: asyncio.Runner) -> None:
    async def check() -> None:
        async with connected() as (transport, peer):
            transport.write(b"x" * 5_000_000)
            while (stalled := tcp_progress(transport)).stalled_seconds < 0.3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            peer.recv(100_000)
            while (progress := tcp_progress(transport)).acknowledged == stalled.acknowledged:
                peer.setblocking(False)
                try:
                    peer.recv(100_000)
                except BlockingIOError:
                    await asyncio.sleep(0)
            assert progress.stalled_seconds < stalled.stalled_seconds

    with runner:
        runner.run(check())


def test_user_timeout_of_the_listener_is_disabled(runner: asyncio.Runner) -> None:
    async def check() -> None:
        async with connected() as (transport, _):
            sock = transport.get_extra_info("socket")
            disable_user_timeout(transport)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0

    with runner:
        runner.run(check())
