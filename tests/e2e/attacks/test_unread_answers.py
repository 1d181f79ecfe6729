"""Clients of the internal listener that send requests without a key, and read no answers."""

import asyncio
import signal
from contextlib import ExitStack
from pathlib import Path

from tests.e2e.clients import RawConnection
from tests.e2e.gateway import gateway_process, publish

MB = 1024 * 1024
REQUESTS = b"GET /v1/nodes HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2_000
DRAIN_SECONDS = 20
CONFIG = f"[drain]\ntimeout = '{DRAIN_SECONDS}s'\nwindow = '1s'\n"


async def test_requests_sent_ahead_take_no_memory_and_hold_up_no_end(tmp_path: Path) -> None:
    """Thirty send as much as the gateway reads; a backend publishes, and then the gateway is stopped."""
    with gateway_process(tmp_path, CONFIG) as gateway, ExitStack() as stack:
        await publish(gateway.internal, "calm", "before")
        before = gateway.resident_bytes()
        for _ in range(30):
            raw = stack.enter_context(await RawConnection.open(gateway.internal, receive_buffer=4_096))
            for _ in range(10):
                # The gateway reads no more while its answers wait: then the socket takes no more, either.
                try:
                    raw.socket.send(REQUESTS)
                except BlockingIOError:
                    break
                await asyncio.sleep(0)
        for number in range(5):
            await publish(gateway.internal, "calm", number)
        assert gateway.resident_bytes() - before < 64 * MB
        gateway.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DRAIN_SECONDS):
            await gateway.wait_exited()
