"""Free ports that stay ours while nobody listens there, so that what was killed comes back where it was."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

HOST = "127.0.0.1"


@contextmanager
def reserved() -> Iterator[int]:
    """Hold a free port of the loopback: it refuses connections until somebody listens, as often as wanted.

    Without a holder the kernel may give the port away in the moment between two listeners, also to a client
    that tries to connect there: to itself, then.
    """
    with socket.socket() as holder:
        # First bound, then willing to share: else the kernel may choose what others share already.
        holder.bind((HOST, 0))
        share(holder)
        yield holder.getsockname()[1]


def listening(port: int, *, receive_buffer: int = 0) -> socket.socket:
    """Return a socket that listens on a reserved *port*; accepted ones have its *receive_buffer*."""
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
    """Let others bind the port of *sock*, too."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
