"""How bytes travel. A transport knows nothing of the protocol but the name of its encoding."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from fanway_client._protocol.client import ABNORMAL_CLOSURE

SUBPROTOCOL = Subprotocol("fanway.v1.json")
MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Larger messages of a gateway end the connection; its outbox is 1 MiB by default."""
CLOSE_SECONDS = 2.0
"""How long the closing handshake may take before the connection is aborted."""


@dataclass(frozen=True, slots=True)
class HandshakeRejected:
    """The HTTP answer to a handshake that opened no connection."""

    status: int
    retry_after: float | None = None
    """Seconds, from the header `Retry-After`."""


class LinkEvents(Protocol):
    """Who is told what happens to a connection."""

    def on_open(self) -> None:
        """The connection is open."""

    def on_data(self, data: str | bytes) -> None:
        """A message arrived."""

    def on_close(self, code: int, reason: str, rejected: HandshakeRejected | None = None) -> None:
        """The connection ended, or could not be opened (1006)."""


class Link(Protocol):
    """One connection. After `close`, no event follows."""

    def send(self, data: str) -> None:
        """Send a message; the order is kept."""

    def close(self) -> None:
        """Close the connection."""


class Transport(Protocol):
    """Opens connections."""

    def connect(self, url: str, events: LinkEvents) -> Link:
        """Open a connection to *url*; errors arrive as `on_close`."""


def websocket_url(url: str) -> str:
    """Return *url* with its scheme as `ws` or `wss`, and `/v1/ws` as its path where it has none."""
    expected = f"url: expected https://host or wss://host/v1/ws, not {url!r}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{expected}: {error}") from None
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in {"ws", "wss"} or not host:
        raise ValueError(expected)
    return urlunsplit(
        (scheme, parts.netloc, parts.path if parts.path not in {"", "/"} else "/v1/ws", parts.query, "")
    )


class WebSocketTransport:
    """WebSockets of the library `websockets`."""

    def __init__(
        self, spawn: Callable[[Coroutine[Any, Any, None]], object], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._spawn = spawn
        self._tls = tls

    def connect(self, url: str, events: LinkEvents) -> Link:
        link = _WebSocketLink(events)
        self._spawn(link.run(websocket_url(url), self._tls))
        return link


class _WebSocketLink:
    def __init__(self, events: LinkEvents) -> None:
        self._events: LinkEvents | None = events
        self._outgoing: asyncio.Queue[str] = asyncio.Queue()
        self._closed = asyncio.Event()

    def send(self, data: str) -> None:
        self._outgoing.put_nowait(data)

    def close(self) -> None:
        self._events = None
        self._closed.set()

    async def run(self, url: str, tls: ssl.SSLContext | None) -> None:
        """Open the connection, and carry messages until it ends or is closed."""
        rejected, code, reason = None, ABNORMAL_CLOSURE, ""
        try:
            options: dict[str, Any] = {"ssl": tls} if tls else {}
            opening = connect(
                url,
                subprotocols=[SUBPROTOCOL],
                compression=None,
                ping_interval=None,
                max_size=MAX_FRAME_BYTES,
                open_timeout=None,
                close_timeout=CLOSE_SECONDS,
                proxy=None,
                **options,
            )
            code, reason = await self._until_closed(self._carry(opening))
        except InvalidStatus as error:
            rejected = _rejected(error)
            reason = f"HTTP {rejected.status}"
        except (OSError, InvalidHandshake, InvalidURI, TimeoutError) as error:
            reason = str(error)
        if self._events is not None:
            self._events.on_close(code, reason, rejected)

    async def _until_closed(self, work: Coroutine[Any, Any, tuple[int, str]]) -> tuple[int, str]:
        """Return what *work* does; cancel it as soon as `close` was called."""
        async with asyncio.TaskGroup() as tasks:
            carrying = tasks.create_task(_outcome(work))
            closing = tasks.create_task(self._closed.wait())
            await asyncio.wait((carrying, closing), return_when=asyncio.FIRST_COMPLETED)
            carrying.cancel()
            closing.cancel()
        if carrying.cancelled():
            return ABNORMAL_CLOSURE, "closed by the client"
        outcome = carrying.result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _carry(self, opening: connect) -> tuple[int, str]:
        async with opening as socket, asyncio.TaskGroup() as tasks:
            if self._events is not None:
                self._events.on_open()
            sending = tasks.create_task(self._send_all(socket))
            try:
                async for data in socket:
                    if self._events is None:
                        break
                    self._events.on_data(data)
                close = socket.protocol.close_rcvd
                return (close.code, close.reason) if close else (ABNORMAL_CLOSURE, "")
            except ConnectionClosed as error:
                return (error.rcvd.code, error.rcvd.reason) if error.rcvd else (ABNORMAL_CLOSURE, "")
            finally:
                sending.cancel()

    async def _send_all(self, socket: Any) -> None:
        while True:
            data = await self._outgoing.get()
            try:
                await socket.send(data)
            except ConnectionClosed:
                return  # the reader sees it, too


async def _outcome(work: Coroutine[Any, Any, tuple[int, str]]) -> tuple[int, str] | Exception:
    """Return the result of *work*, or its error, which a task group would wrap."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 (handed over as it is)
        return error


def _rejected(error: InvalidStatus) -> HandshakeRejected:
    retry_after = error.response.headers.get("Retry-After", "")
    return HandshakeRejected(
        error.response.status_code, float(retry_after) if retry_after.isdigit() else None
    )
