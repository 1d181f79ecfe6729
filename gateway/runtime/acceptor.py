"""Accepts connections as asyncio and uvloop do, but notices and survives a lack of file descriptors.

Without any left, libuv closes what it accepts, or tries again at once and for ever; uvloop reports neither.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

RETRY_SECONDS = 0.1
"""Until the next attempt after an error; asyncio waits for 1 s."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""The process or the system lacks descriptors or memory (accept(2)): asyncio, too, waits after these."""


class Acceptor:
    """Accepts the connections of one listening socket, one in each turn of the event loop.

    It has the methods of `asyncio.Server` that uvicorn calls.
    """

    def __init__(
        self,
        listening: socket.socket,
        create_protocol: Callable[[], asyncio.Protocol],
        *,
        on_exhausted: Callable[[OSError], None],
    ) -> None:
        """Accept from the socket *listening*, which `close` closes.

        Args:
            listening: bound, listening, and non-blocking.
            create_protocol: makes the protocol of a connection.
            on_exhausted: called with each error of `EXHAUSTED`; the next attempt is `RETRY_SECONDS` later.

        """
        self._listening = listening
        self._create_protocol = create_protocol
        self._on_exhausted = on_exhausted
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._start()

    def close(self) -> None:
        """Accept no more, and close the listening socket."""
        if self._retry is not None:
            self._retry.cancel()
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()

    async def wait_closed(self) -> None:
        """Return: `close` waits for nothing."""

    def _start(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        try:
            accepted, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            self._on_error(error)
            return
        accepted.settimeout(0)
        try:
            _run(self._loop.connect_accepted_socket(self._create_protocol, accepted))
        except BaseException:
            accepted.close()
            raise

    def _on_error(self, error: OSError) -> None:
        """Pause; any other error than those of `EXHAUSTED` concerns the connection alone (accept(2))."""
        if error.errno in EXHAUSTED:
            self._loop.remove_reader(self._listening)
            self._retry = self._loop.call_later(RETRY_SECONDS, self._start)
            self._on_exhausted(error)


def _run(connecting: Coroutine[Any, Any, object]) -> None:
    """Run *connecting*, which waits once, for `connection_made`; a task would cost 20 µs more."""
    try:
        waiter = connecting.send(None)
    except StopIteration:
        return
    waiter._asyncio_future_blocking = False  # noqa: SLF001 (what a task does with what a coroutine waits for)
    waiter.add_done_callback(partial(_finish, connecting))


def _finish(connecting: Coroutine[Any, Any, object], _: asyncio.Future[Any]) -> None:
    try:
        connecting.send(None)
    except StopIteration:
        return
