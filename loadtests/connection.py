"""One WebSocket connection to a gateway, for gevent: a greenlet receives; commands wait for their replies.

It only carries messages: what a client does about them is decided in `protocol.client`.

To be imported after locust, which makes sockets and locks cooperative.
"""

from __future__ import annotations

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

from loadtests.codecs import Codec
from protocol.client import ABNORMAL_CLOSURE
from protocol.errors import TRANSIENT_ERRORS

READ_BYTES = 64 * 1024

TIMEOUT_SECONDS = 15.0
"""How long a handshake or a reply may take."""


class ConnectionListener(Protocol):
    """Receives everything that happens on a connection, in the order of the frames."""

    def on_command(self, command: Mapping[str, Any]) -> None:
        """Record a command that is about to be sent."""

    def on_reply(self, command: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Process the reply to *command*, before the caller that waits for it."""

    def on_push(self, push: Mapping[str, Any]) -> None:
        """Process a push."""

    def on_closed(self, code: int) -> None:
        """Record that the connection ended; *code* is 1006 if there was no Close frame."""

    def on_failure(self, error: BaseException) -> None:
        """Record that a frame could not be decoded, or that one of these methods raised *error*."""


class UpgradeRejected(Exception):
    """The upgrade was answered with a status other than 101."""

    def __init__(self, status: int, retry_after: float | None) -> None:
        super().__init__(f"upgrade answered with {status}")
        self.status = status
        self.retry_after = retry_after


class Disconnected(Exception):
    """The connection ended before the reply arrived."""


class CommandRejected(Exception):
    """The reply was an `error`."""

    def __init__(self, command: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        self.code: str = reply["code"]
        self.is_transient = self.code in TRANSIENT_ERRORS
        """Whether the same command may succeed later."""
        self.retry_after = reply.get("retry_after_ms", 0) / 1000
        super().__init__(f"{command['type']}: {self.code}: {reply['message']}")


class Connection:
    """One connection: open once constructed, until `close`, `abort` or a Close frame of the server."""

    def __init__(self, url: str, codec: Codec, listener: ConnectionListener) -> None:
        """Open a WebSocket; raise `UpgradeRejected` or OSError."""
        self.id = ""
        """The id that the server gave to this connection; its user sets it."""
        self._codec = codec
        self._listener = listener
        self._awaiting_reply: dict[int, tuple[Mapping[str, Any], AsyncResult]] = {}
        self._socket = _open_websocket(url, codec)
        self._closed = False
        self._receiver = gevent.spawn(self._receive)

    def request(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a command and return its reply; raise `CommandRejected` or `Disconnected`."""
        pending = self.send(command)
        try:
            _, reply = pending.get(timeout=TIMEOUT_SECONDS)
        except gevent.Timeout as timeout:
            self.abort()
            raise Disconnected(f"no reply to {command['type']} within {TIMEOUT_SECONDS:.0f} s") from timeout
        if reply["type"] == "error":
            raise CommandRejected(command, reply)
        return dict(reply)

    def send(self, command: Mapping[str, Any]) -> AsyncResult:
        """Send a command; return the future pair of the command and its reply."""
        pending = AsyncResult()
        if self._closed:
            raise Disconnected("the connection is closed")
        self._listener.on_command(command)
        self._awaiting_reply[command["id"]] = command, pending
        self.write(command)
        return pending

    def write(self, message: Mapping[str, Any]) -> None:
        """Write a message that has no reply; raise `Disconnected`."""
        opcode = websocket.ABNF.OPCODE_BINARY if self._codec.binary else websocket.ABNF.OPCODE_TEXT
        try:
            self._socket.send(self._codec.encode(message), opcode)
        except (websocket.WebSocketException, OSError, AttributeError) as error:
            raise Disconnected(str(error)) from error

    def close(self) -> None:
        """Send a Close frame, and process what arrives until the server answers it."""
        with suppress(websocket.WebSocketException, OSError):
            self._socket.send_close()
        self._receiver.join(timeout=TIMEOUT_SECONDS)
        self.abort()

    def abort(self) -> None:
        """Close the socket without a Close frame, as when a network fails."""
        with suppress(OSError):
            self._socket.abort()
        self._socket.shutdown()
        self._receiver.join()

    # ------------------------------------------------------------ private

    def _receive(self) -> None:
        code = ABNORMAL_CLOSURE
        try:
            code = self._receive_until_close()
        except (websocket.WebSocketConnectionClosedException, OSError):
            pass
        except Exception as error:  # noqa: BLE001 (whatever it is, it must fail the run)
            if not self._closed:
                self._listener.on_failure(error)
        finally:
            self._closed = True
            self._listener.on_closed(code)
            awaiting_reply, self._awaiting_reply = self._awaiting_reply, {}
            for command, pending in awaiting_reply.values():
                pending.set_exception(Disconnected(f"{command['type']}: closed with {code}"))

    def _receive_until_close(self) -> int:
        """Process frames; return the close code."""
        while True:
            opcode, data = self._socket.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return struct.unpack_from("!H", data)[0] if len(data) >= 2 else ABNORMAL_CLOSURE
            self._process(self._codec.decode(data))

    def _process(self, message: Mapping[str, Any]) -> None:
        if (awaiting := self._awaiting_reply.pop(message.get("id", 0), None)) is not None:
            command, pending = awaiting
            self._listener.on_reply(command, message)
            pending.set((command, message))
        else:
            self._listener.on_push(message)

    def __repr__(self) -> str:
        return f"<Connection {self.id} {'closed' if self._closed else 'open'}>"


class _BufferedSocket:
    """A socket that is read in large pieces: one system call for many frames, instead of three for each."""

    def __init__(self, plain: socket.socket) -> None:
        self._socket = plain
        self._buffer = b""
        self._read_to = 0

    def recv(self, size: int) -> bytes:
        if self._read_to == len(self._buffer):
            self._buffer, self._read_to = self._socket.recv(READ_BYTES), 0
        begin = self._read_to
        self._read_to = min(begin + size, len(self._buffer))
        return self._buffer[begin : self._read_to]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def _open_websocket(url: str, codec: Codec) -> Any:
    """Return a `websocket.WebSocket`, which is only partly typed."""
    connection: Any = websocket.WebSocket(enable_multithread=True, skip_utf8_validation=True)
    plain = _open_socket(url)
    try:
        # A socket of our own bypasses the proxies that the environment may name. A response without the
        # requested subprotocol is an error.
        connection.connect(
            url,
            socket=_BufferedSocket(plain),
            subprotocols=[codec.subprotocol],
            suppress_origin=True,
            timeout=TIMEOUT_SECONDS,
        )
        connection.settimeout(None)
        return connection
    except websocket.WebSocketBadStatusException as error:
        plain.close()
        raise UpgradeRejected(error.status_code, _retry_after_seconds(error.resp_headers)) from error
    except websocket.WebSocketException as error:
        plain.close()
        raise OSError(f"{url}: {error}") from error
    except BaseException:
        plain.close()
        raise


def _open_socket(url: str) -> socket.socket:
    address = urlsplit(url)
    secure = address.scheme == "wss"
    host = address.hostname or "127.0.0.1"
    plain = socket.create_connection((host, address.port or (443 if secure else 80)), timeout=TIMEOUT_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain


def _retry_after_seconds(headers: Mapping[str, str] | None) -> float | None:
    """Return the value of the header Retry-After, if it is there as a number."""
    with suppress(KeyError, TypeError, ValueError):
        return float((headers or {})["retry-after"])
    return None
