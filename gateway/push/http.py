"""HTTP/1.1 on the internal listener: requests have deadlines, and a client always gets to read its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from gateway import defaults
from gateway.errors import Rejection
from gateway.push.content_types import JSON, ContentType
from gateway.transport.http.lingering_close import close_lingering
from gateway.transport.http.rejections import HttpRejection, render
from protocol.errors import ErrorCode

LINGER_SECONDS = 5.0
"""For which input is discarded after a rejection, so that the client can read the answer."""

_REQUEST_TIMEOUT = render(Rejection(ErrorCode.BAD_REQUEST, "the request did not come in time"), status=408)


@dataclass(frozen=True, slots=True)
class RequestTimeouts:
    """Seconds from the first byte of a request; uvicorn itself has no such limits."""

    head: float = defaults.HEADER_TIMEOUT_SECONDS
    """Until the head is complete; also from the start of a connection to the head of its first request."""
    body: float = 30.0
    """Until the body is complete."""


class InternalHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with deadlines, and with answers that are not lost to a reset."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        body_size: int,
        timeouts: RequestTimeouts,
    ) -> None:
        """Bind *body_size* and *timeouts* with `functools.partial`; larger bodies are not read further."""
        super().__init__(config, server_state, app_state, _loop)
        self._body_size = body_size
        self._timeouts = timeouts
        self._body_received = 0
        """Bytes of the current request's body so far."""
        self._head_complete = False
        """Whether the current request's head is complete."""
        self._between_requests = True
        """Whether uvicorn's parser is at the beginning of a request."""
        self._started_at = 0.0
        """Loop time at which the current request began, or the connection."""
        self._first_request = True
        """Whether no request has been completed yet."""
        self._discarding = False
        """Whether input is discarded from now on, because the connection is closing."""
        self._stopping = False
        self._last_used_at = 0.0

    # ------------------------------------------------------------ input

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and set the deadline of the first request's head."""
        super().connection_made(transport)
        self._started_at = self.loop.time()
        self._set_timer(self._timeouts.head)

    def data_received(self, data: bytes) -> None:
        """Parse *data*, and set the deadline of what is missing."""
        super().data_received(data)
        if self._discarding or self.transport.is_closing():
            return
        if self._body_received > self._body_size and self._answered:
            self._close()
        elif self.timeout_keep_alive_task is None:
            self._set_next_timer()

    def _set_next_timer(self) -> None:
        """Set the timer for the deadline or for idleness; uvicorn cancels its timer with each read."""
        deadline = self._deadline
        if deadline is not None:
            self._set_timer(max(0.0, deadline - self.loop.time()))
        elif self._answered:
            self._set_timer(self.timeout_keep_alive)

    @property
    def _deadline(self) -> float | None:
        """Loop time by which the client must have sent the rest of its request; None where nothing is due."""
        if self._request_incomplete:
            timeouts = self._timeouts
            return self._started_at + (timeouts.body if self._head_complete else timeouts.head)
        return self._started_at + self._timeouts.head if self._first_request else None

    @property
    def _answered(self) -> bool:
        """Whether the last request whose head is complete has its answer."""
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr] # None at first

    @property
    def _request_incomplete(self) -> bool:
        """Whether a part of a request has arrived, and the rest has not."""
        return not self._between_requests

    # ------------------------------------------------------------ callbacks of uvicorn's parser

    def on_message_begin(self) -> None:
        """Note that a request has begun."""
        self._between_requests = self._head_complete = False
        self._started_at = self.loop.time()
        self._body_received = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that the head is complete; a request whose body is too large is the connection's last."""
        self._head_complete = True
        super().on_headers_complete()
        declared = next((value for name, value in self.headers if name == b"content-length"), b"")
        if len(declared) > 18 or int(declared or b"0") > self._body_size:
            self.cycle.keep_alive = False
        if not self.cycle.keep_alive:
            self._linger_after_answer()

    def on_body(self, body: bytes) -> None:
        """Count the body's bytes: a request whose body turns out too large is the connection's last."""
        self._body_received += len(body)
        if self._body_received > self._body_size and self.cycle.keep_alive:
            self.cycle.keep_alive = False
            self._linger_after_answer()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self._between_requests = True
        self._first_request = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, unless this was the last."""
        if self._discarding:
            self.server_state.total_requests += 1
        else:
            super().on_response_complete()

    # ------------------------------------------------------------ timeouts and the end

    def timeout_keep_alive_handler(self) -> None:
        """End a request that is late, or a connection that was idle for long enough.

        One timer serves both and is set again when it fires early: a timer for every request would cost more.
        """
        if self.transport.is_closing():
            return
        now, deadline = self.loop.time(), self._deadline
        idle_until = self._last_used_at + self.timeout_keep_alive
        left = (idle_until if deadline is None else deadline) - now
        if left > 0:
            self._set_timer(left)
        elif deadline is None:
            super().timeout_keep_alive_handler()
        else:
            self._on_deadline()

    def _on_deadline(self) -> None:
        """End a connection whose client does not complete its request."""
        if self._between_requests or not self._head_complete:
            # The last answer was for an earlier request.
            if not self._answered:
                self._set_timer(self._timeouts.head)
            elif self._request_incomplete:
                self._reject(_REQUEST_TIMEOUT)
            else:
                self.transport.close()
        elif self._answered:
            self._close_lingering()
        elif self.cycle.response_started or self.pipeline:
            self._set_timer(self._timeouts.head)
        else:
            self._reject(_REQUEST_TIMEOUT)

    def _reject(self, rejection: HttpRejection) -> None:
        self._stopping = True
        self.transport.write(self._response(rejection.status, rejection.headers, JSON, rejection.json()))
        self._close_lingering()

    def _response(
        self, status: int, headers: Mapping[str, str], content_type: ContentType, body: bytes
    ) -> bytes:
        lines = [STATUS_LINE[status]]
        for name, value in self.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        for key, text in headers.items():
            lines.append(f"{key}: {text}\r\n".encode("latin-1"))
        if self._stopping:
            lines.append(b"connection: close\r\n")
        lines.append(b"content-length: %d\r\ncontent-type: %b\r\n\r\n" % (len(body), content_type.header))
        lines.append(body)
        return b"".join(lines)

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request in the form of every other error."""
        self._reject(render(Rejection(ErrorCode.BAD_REQUEST, msg)))

    def _linger_after_answer(self) -> None:
        """Let the current request's answer end with a close that does not reset the connection."""
        self.cycle.transport = cast("Any", _LingeringTransport(self.transport, self._close))

    def _close(self) -> None:
        if self._between_requests:
            self.transport.close()
        else:
            self._close_lingering()

    def _close_lingering(self) -> None:
        """Close, and discard input until then: closing over unread input resets, and loses the answer."""
        if self.transport.is_closing() or self._discarding:
            return
        self._discarding = True
        self._unset_keepalive_if_required()
        # A route that still waits for the body gets a disconnect.
        self.connection_lost(ConnectionAbortedError())
        close_lingering(self.transport, self.server_state, timeout=LINGER_SECONDS)

    def _set_timer(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)


class _LingeringTransport:
    """The transport that one request's answer gets, whose `close` is ours."""

    __slots__ = ("_transport", "close")

    def __init__(self, transport: asyncio.Transport, close: Any) -> None:
        self._transport = transport
        self.close = close

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()
