"""How far the bytes of a connection have got, by the counters that the kernel keeps for every socket."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

_TCP_INFO = getattr(socket, "TCP_INFO", None)
"""The socket option; only Linux has it."""

_FIELDS = struct.Struct("=44xI4xI64xQQ8xI52xQQ")
"""Of `struct tcp_info` (linux/tcp.h, since Linux 4.19): tcpi_last_data_sent, tcpi_last_data_recv,
tcpi_bytes_acked, tcpi_bytes_received, tcpi_notsent_bytes, tcpi_bytes_sent, tcpi_bytes_retrans."""


class TcpProgress(NamedTuple):
    """What has happened to the bytes of one connection so far.

    Acknowledged means that the kernel at the other end has the bytes: the client's, or that of a proxy in
    front of the gateway. Whether the client has read them is not known.
    """

    written: int
    """Bytes written by the gateway, including those that wait in buffers."""
    acknowledged: int
    """How many of them the kernel at the other end has acknowledged."""
    stalled_seconds: float
    """Seconds since a byte was last sent, while others wait for room at the other end; 0.0 if none waits."""
    seconds_since_received: float
    """Seconds since bytes were last received, whole messages or not."""


UNKNOWN = TcpProgress(0, 0, 0.0, math.inf)
"""The progress of a connection whose kernel does not say: not Linux, or an older one."""


def tcp_progress(transport: asyncio.Transport) -> TcpProgress:
    """Return the progress of the socket of *transport*: one system call."""
    if _TCP_INFO is None:
        return UNKNOWN
    with _socket_of(transport) as sock:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _FIELDS.size)
    if len(info) < _FIELDS.size:
        return UNKNOWN
    sent_ms, received_ms, acknowledged, received, unsent, sent, repeated = _FIELDS.unpack(info)
    unsent += transport.get_write_buffer_size()
    return TcpProgress(
        sent - repeated + unsent,
        acknowledged,
        sent_ms / 1000 if unsent else 0.0,
        received_ms / 1000 if received else math.inf,
    )


def received_bytes(sock: socket.socket) -> int:
    """Return how many bytes *sock* has received, whole messages or not; 0 if it is closed, or not known."""
    if _TCP_INFO is None:
        return 0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _FIELDS.size)
    except OSError:
        return 0
    return int(_FIELDS.unpack(info)[3]) if len(info) == _FIELDS.size else 0


def disable_user_timeout(transport: asyncio.Transport) -> None:
    """Let the kernel never end the connection of *transport* because of TCP_USER_TIMEOUT.

    Linux starts that timer when the other end has no room for what waits, and does not restart it when a part
    is acknowledged (`tcp_probe_timer`): a client that reads slowly all the time would be cut.
    """
    with _socket_of(transport) as sock:
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)


@contextmanager
def _socket_of(transport: asyncio.Transport) -> Iterator[socket.socket]:
    """Borrow the socket of *transport*: that of uvloop duplicates the descriptor for every call."""
    descriptor: int = transport.get_extra_info("socket").fileno()
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, descriptor)
    try:
        yield sock
    finally:
        sock.detach()
