"""Free ports that stay reserved while nothing listens there, so that a killed process returns on its port."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

HOST = "127.0.0.1"


@contextmanager
def reserved() -> Iterator[int]:
    """Reserve a free port of the loopback; connections are refused while nothing listens on it.

    Without the reservation the kernel may assign the port to another socket between two listeners, even to a
    client that tries to connect there, which then connects to itself.
    """
    with socket.socket() as holder:
        # Shared only after the bind: otherwise the kernel may choose a port that other sockets share already.
        holder.bind((HOST, 0))
        share(holder)
        yield holder.getsockname()[1]


def listening(port: int, *, receive_buffer: int = 0) -> socket.socket:
    """Return a socket that listens on a reserved *port*; accepted sockets inherit its *receive_buffer*."""
    listener = socket.socket()
    try:
        share(listener)
        if receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.bind((HOST, port))
        listener.listen(1024)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def share(sock: socket.socket) -> None:
    """Allow other sockets to bind the port of *sock*."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
