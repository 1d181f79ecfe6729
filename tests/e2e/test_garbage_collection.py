"""A closed connection leaves nothing that only the garbage collector frees.

The collector looks seldom (`tune_garbage_collector`): a cycle that holds a message holds it for minutes.
"""

import gc
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from websockets.protocol import Protocol as Core

from gateway.delivery.outbox import Outbox
from gateway.hub.session import Session
from gateway.transport.public_http import PublicHttp
from gateway.transport.websocket.handshake import Handshake
from gateway.transport.websocket.transport import WebSocketTransport
from protocol.errors import BadRequest, ClientFault
from tests.e2e.clients import CONT, PING, TEXT, RawConnection, client_frame, close_frame, upgrade_request
from tests.e2e.gateway import GatewayOnLoop, gateway_on_loop, wait_until

KINDS = frozenset({Session, Outbox, WebSocketTransport, Core, Handshake, PublicHttp, BadRequest, ClientFault})


async def _asks(port: int, request: bytes) -> None:
    with await RawConnection.open(port) as raw:
        await raw.send(request)
        await raw.read_response()
        await raw.read_to_end()


async def _says(port: int, *messages: bytes) -> None:
    """Connect, say things that have an answer each, and be closed or leave."""
    with await RawConnection.websocket(port) as raw:
        await raw.call(type="connect", id=1, subs={"news": {}})
        for message in messages:
            await raw.send(message)
            await raw.read_frame()


LIVES: dict[str, Callable[[int], Awaitable[None]]] = {
    "healthz": lambda port: _asks(port, b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"),
    "no HTTP": lambda port: _asks(port, b"\x00\r\n\r\n"),
    "another version": lambda port: _asks(port, upgrade_request(sec_websocket_version="8")),
    "no key": lambda port: _asks(port, upgrade_request(without="sec-websocket-key")),
    "no subprotocol": lambda port: _asks(port, upgrade_request(subprotocol="chat")),
    "vanishes": _says,
    "closes": lambda port: _says(port, close_frame(1000)),
    "pings": lambda port: _says(port, client_frame(PING)),
    "sends fragments": lambda port: _says(
        port,
        client_frame(TEXT, b'{"type":"ping","id":2,"x":"', fin=False)
        + client_frame(CONT, b"x" * 60_000 + b'"}'),
    ),
    "subscribes and leaves": lambda port: _says(
        port,
        client_frame(TEXT, b'{"type":"subscribe","id":2,"channel":"more"}'),
        client_frame(TEXT, b'{"type":"unsubscribe","id":3,"channel":"more"}'),
    ),
    "says what is no command": lambda port: _says(
        port, client_frame(TEXT, b"[" * 60_000), client_frame(TEXT, b"{}")
    ),
    "is refused a command": lambda port: _says(
        port, client_frame(TEXT, b'{"type":"subscribe","id":2,"channel":"@b"}')
    ),
    "breaks the rules": lambda port: _says(port, client_frame(TEXT, b'{"type":"connect","id":2}')),
    "sends no UTF-8": lambda port: _says(port, client_frame(TEXT, b"\xff")),
    "sends too much": lambda port: _says(port, client_frame(TEXT, b"x" * 65_537)),
    "sends without a mask": lambda port: _says(port, client_frame(TEXT, b"{}", masked=False)),
}


def count_objects() -> Counter[str]:
    """How many of each kind came since the last freeze, those among them that nobody can reach."""
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in KINDS)


async def _gone(gateway: GatewayOnLoop) -> None:
    await wait_until(lambda: not gateway.gateway.public.server_state.connections)


async def test_closed_connections_leave_no_garbage_cycles(tmp_path: Path) -> None:
    left: dict[str, Counter[str]] = {}
    async with gateway_on_loop(tmp_path) as gateway:
        try:
            for how, live in LIVES.items():
                await live(gateway.public)
                await _gone(gateway)
                gc.collect()
                gc.freeze()
                gc.disable()
                for _ in range(3):
                    await live(gateway.public)
                await _gone(gateway)
                if found := count_objects():
                    left[how] = found
        finally:
            gc.enable()
            gc.unfreeze()
    assert left == {}
