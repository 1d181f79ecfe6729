"""A WebSocket client on the wire, for gevent: a greenlet that receives, commands that wait for their replies.

To be imported after locust, which makes sockets and locks cooperative.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import urlsplit

import gevent
import websocket
from gevent.event import AsyncResult

from loadtests.wire import ABNORMAL, Codec

RECEIVE = 64 * 1024
PATIENCE = 15.0
"""Seconds that a handshake or a reply may take."""


class Ears(Protocol):
    """Who listens to a client; every method is called in the order of the frames."""

    def asked(self, command: Mapping[str, Any]) -> None:
        """Note a command that is about to be sent."""

    def replied(self, command: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Take the reply to *command*, before whoever asked for it."""

    def pushed(self, push: Mapping[str, Any]) -> None:
        """Take a push."""

    def ended(self, code: int) -> None:
        """The connection is over."""

    def failed(self, error: BaseException) -> None:
        """What was received made no sense, or made one of these methods fail."""


class Refused(Exception):
    """The upgrade was answered with another status."""

    def __init__(self, status: int, retry_after: float | None) -> None:
        super().__init__(f"upgrade answered with {status}")
        self.status = status
        self.retry_after = retry_after


class Disconnected(Exception):
    """The connection ended before the reply came."""


class CommandRefused(Exception):
    """The reply was an `error`."""

    def __init__(self, command: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        self.code: str = reply["code"]
        self.retry_after = reply.get("retry_after_ms", 0) / 1000
        super().__init__(f"{command['type']}: {self.code}: {reply['message']}")


class Client:
    """One connection: open once made, over after `close`, `abort` or the server's word."""

    def __init__(self, url: str, codec: Codec, ears: Ears) -> None:
        """Open a WebSocket; raise `Refused` or OSError."""
        self.connection = ""
        """The id that the server gave to this connection."""
        self._codec = codec
        self._ears = ears
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[Mapping[str, Any], AsyncResult]] = {}
        self._socket = _upgraded(url, codec)
        self._over = False
        self._receiver = gevent.spawn(self._receive)

    def connect(self, **fields: Any) -> Mapping[str, Any]:
        """Send `connect` and return `connected`."""
        reply = self.ask("connect", **fields)
        self.connection = reply["connection"]
        return reply

    def ask(self, kind: str, **fields: Any) -> Mapping[str, Any]:
        """Send a command and return its reply; raise `CommandRefused` or `Disconnected`."""
        answer = self.send(kind, **fields)
        try:
            command, reply = answer.get(timeout=PATIENCE)
        except gevent.Timeout as timeout:
            self.abort()
            raise Disconnected(f"no reply to {kind} within {PATIENCE:.0f} s") from timeout
        if reply["type"] == "error":
            raise CommandRefused(command, reply)
        return dict(reply)

    def send(self, kind: str, **fields: Any) -> AsyncResult:
        """Send a command; return what will be the command and its reply."""
        command = {"id": next(self._ids), "type": kind, **fields}
        answer = AsyncResult()
        if self._over:
            raise Disconnected("the connection is over")
        self._ears.asked(command)
        self._waiting[command["id"]] = command, answer
        self._write(command)
        return answer

    def close(self) -> None:
        """Say goodbye, wait for the answer, and hear what still comes until then."""
        with suppress(websocket.WebSocketException, OSError):
            self._socket.send_close()
        self._receiver.join(timeout=PATIENCE)
        self.abort()

    def abort(self) -> None:
        """Cut the connection, as a network does."""
        with suppress(OSError):
            self._socket.abort()
        self._socket.shutdown()
        self._receiver.join()

    # ------------------------------------------------------------ inside

    def _write(self, message: Mapping[str, Any]) -> None:
        opcode = websocket.ABNF.OPCODE_BINARY if self._codec.binary else websocket.ABNF.OPCODE_TEXT
        try:
            self._socket.send(self._codec.encode(message), opcode)
        except (websocket.WebSocketException, OSError, AttributeError) as error:
            raise Disconnected(str(error)) from error

    def _receive(self) -> None:
        code = ABNORMAL
        try:
            code = self._receive_all()
        except (websocket.WebSocketConnectionClosedException, OSError):
            pass
        except Exception as error:  # noqa: BLE001 (whatever it is, the run has to hear of it)
            if not self._over:
                self._ears.failed(error)
        finally:
            self._over = True
            self._ears.ended(code)
            waiting, self._waiting = self._waiting, {}
            for command, answer in waiting.values():
                answer.set_exception(Disconnected(f"{command['type']}: closed with {code}"))

    def _receive_all(self) -> int:
        while True:
            opcode, data = self._socket.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return struct.unpack_from("!H", data)[0] if len(data) >= 2 else ABNORMAL
            self._take(self._codec.decode(data))

    def _take(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "ping":
            self._write({"type": "pong"})
        elif (answered := self._waiting.pop(message.get("id", 0), None)) is not None:
            command, answer = answered
            self._ears.replied(command, message)
            answer.set((command, message))
        else:
            self._ears.pushed(message)

    def __repr__(self) -> str:
        return f"<Client {self.connection} {'over' if self._over else 'open'}>"


class _Buffered:
    """A socket that is read in large pieces: one system call for many frames, instead of three for each."""

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self._piece = b""
        self._at = 0

    def recv(self, size: int) -> bytes:
        if self._at == len(self._piece):
            self._piece, self._at = self._plain.recv(RECEIVE), 0
        begin = self._at
        self._at = min(begin + size, len(self._piece))
        return self._piece[begin : self._at]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


def _upgraded(url: str, codec: Codec) -> Any:
    """Return a `websocket.WebSocket`, of whose methods only some have types."""
    connection: Any = websocket.WebSocket(enable_multithread=True, skip_utf8_validation=True)
    plain = _dialled(url)
    try:
        # A socket of our own goes round the proxies that the environment may name. An answer without the
        # subprotocol that was asked for is none.
        connection.connect(
            url,
            socket=_Buffered(plain),
            subprotocols=[codec.subprotocol],
            suppress_origin=True,
            timeout=PATIENCE,
        )
        connection.settimeout(None)
        return connection
    except websocket.WebSocketBadStatusException as error:
        plain.close()
        raise Refused(error.status_code, _seconds(error.resp_headers)) from error
    except websocket.WebSocketException as error:
        plain.close()
        raise OSError(f"{url}: {error}") from error
    except BaseException:
        plain.close()
        raise


def _dialled(url: str) -> socket.socket:
    address = urlsplit(url)
    secure = address.scheme == "wss"
    host = address.hostname or "127.0.0.1"
    plain = socket.create_connection((host, address.port or (443 if secure else 80)), timeout=PATIENCE)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain


def _seconds(headers: Mapping[str, str] | None) -> float | None:
    """Return what the header Retry-After says, if it is there as a number."""
    with suppress(KeyError, TypeError, ValueError):
        return float((headers or {})["retry-after"])
    return None
