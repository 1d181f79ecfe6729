"""HTTP/1.1 on the internal listener: requests have bounds and deadlines, and answers can always be read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway import defaults
from gateway.clock import monotonic
from gateway.errors import Rejection
from gateway.push.content_types import JSON, ContentType
from gateway.transport.http.bounded_head import (
    BoundedHeadHttp,
    HeadLimitError,
    HeadLimits,
    rejection_of,
)
from gateway.transport.http.lingering_close import close_lingering
from gateway.transport.http.open_connections import ConnectionStage, OpenConnections
from gateway.transport.http.rejections import HttpRejection, render
from gateway.transport.stall_detector import StallDetector
from protocol.errors import ErrorCode

LINGER_SECONDS = 5.0
"""For which input is discarded after a rejection, so that the client can read the answer."""

MIN_CHUNKED_SLICE_BYTES = 512
"""Of a chunked body that are parsed at once: a slice may also hold requests, of 18 bytes at least."""

KEEP_ALIVE_MARGIN_SECONDS = 1.0
"""By which an idle connection is kept longer than is announced: the announcement takes time to arrive."""

_HEAD_END = b"\r\n\r\n"

_FRAMING_FIELDS = (b"content-length", b"transfer-encoding")

_REQUEST_TIMEOUT = render(Rejection(ErrorCode.BAD_REQUEST, "the request did not come in time"), status=408)


@dataclass(frozen=True, slots=True)
class RequestTimeouts:
    """Seconds from the first byte of a request; uvicorn itself has no such limits."""

    head: float = defaults.HEADER_TIMEOUT_SECONDS
    """Until the head is complete; also from the start of a connection to the head of its first request."""
    body: float = 30.0
    """Until the body is complete."""
    answer: float = defaults.STALL_TIMEOUT_SECONDS
    """Without progress of answers that the client does not read, until the connection is aborted."""


def keep_alive_options(seconds: float) -> dict[str, Any]:
    """Return the options of a `Listener` that keeps idle connections for *seconds*, and says so in answers.

    A client that knows the time does not send a request just when the connection is closed (RFC 2068 section
    19.7.1.1 has the header; Node.js and Apache HttpClient obey it).
    """
    return {
        "timeout_keep_alive": seconds + KEEP_ALIVE_MARGIN_SECONDS,
        "headers": [("keep-alive", f"timeout={int(seconds)}")],
    }


@dataclass(slots=True)
class HttpCounts:
    """What the connections of one listener have counted, for metrics."""

    rejected_heads: int = 0
    """Requests that were malformed, or whose head exceeded a limit."""
    stalled: int = 0
    """Connections that were aborted because the client read no answers."""


class InternalHttp(BoundedHeadHttp):
    """uvicorn's HTTP protocol, with bounds and deadlines, and with answers that are not lost to a reset.

    One request is parsed and answered after the other: what a client sends ahead waits unparsed, and the
    socket is not read meanwhile.
    """

    def __init__(
        self,
        config: Config,
        server_state: OpenConnections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        body_size: int,
        timeouts: RequestTimeouts,
        head_limits: HeadLimits,
        counts: HttpCounts,
    ) -> None:
        """Bind the bounds with `functools.partial`; bodies over *body_size* are not read further."""
        super().__init__(config, server_state, app_state, _loop, head_limits=head_limits)
        self._body_size = body_size
        self._timeouts = timeouts
        self._counts = counts
        self._input = b""
        """Bytes that were read; those from `_position` on are not parsed yet."""
        self._position = 0
        self._bytes_besides_body = 0
        """Bytes parsed since the last byte of a body: of a head, of lines between chunks, or of trailers."""
        self._content_length: int | None = None
        """Bytes in the current request's body; None in chunks, or without a body."""
        self._body_received = 0
        """Bytes of the current request's body so far."""
        self._head_complete = False
        """Whether the current request's head is complete."""
        self._between_requests = True
        """Whether uvicorn's parser is at the beginning of a request."""
        self._in_framing_head = False
        """Whether the parser gets the head that `_ignore_upgrade` makes."""
        self._started_at = 0.0
        """Loop time at which the current request began, or the connection."""
        self._first_request = True
        """Whether no request has been completed yet."""
        self._discarding = False
        """Whether input is discarded from now on, because the connection is closing."""
        self._stopping = False
        self._last_used_at = 0.0
        self._stall_detector: StallDetector | None = None
        """Watches unread answers while the write buffer is full, or the socket closing."""

    # ------------------------------------------------------------ input

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and set the deadline of the first request's head."""
        super().connection_made(transport)
        if transport.is_closing():
            return  # there is no room for it
        self._started_at = self.loop.time()
        self._set_timer(self._timeouts.head)

    def data_received(self, data: bytes) -> None:
        """Parse *data*, or keep it until the requests before it are answered; set the next deadline."""
        self._unset_keepalive_if_required()
        self._input = self._input[self._position :] + data
        self._position = 0
        self._parse()

    def _parse(self) -> None:
        """Parse the input up to the end of a request that is to be answered first."""
        while self._position < len(self._input):
            if self._between_requests and not self._answered:
                # Not by way of `flow`: uvicorn resumes that one whenever a route asks for the body.
                self.transport.pause_reading()
                return
            if not self._parse_slice():
                return
        self._input, self._position = b"", 0
        if not self.flow.read_paused:
            self.transport.resume_reading()
        if self._body_received > self._body_size and self._answered:
            self._close()
        elif self.timeout_keep_alive_task is None:
            self._set_next_timer()

    def _parse_slice(self) -> bool:
        """Parse as much of the input as can hold one request; return whether the connection goes on."""
        try:
            end = self._end_of_slice()
            self._bytes_besides_body += end - self._position
            try:
                self.parser.feed_data(self._input[self._position : end])
                self._position = end
            except httptools.HttpParserUpgrade as offer:
                self._position += offer.args[0]
                self._ignore_upgrade()
        except (httptools.HttpParserError, HeadLimitError) as error:
            self._counts.rejected_heads += 1
            self._reject(rejection_of(error))
            return False
        return True

    def _end_of_slice(self) -> int:
        """Return where the next slice of the input ends: with a head, with a body, or earlier.

        So that a slice has hardly more than one request, and at most `HeadLimits.size` bytes besides a body.
        """
        begin, end = self._position, len(self._input)
        if self._in_body and self._content_length is not None:
            return min(end, begin + self._content_length - self._body_received)
        allowed = self._head_limits.size - self._bytes_besides_body
        if allowed <= 0:
            raise self.head_too_large()
        end = min(end, begin + allowed)
        found = self._input.find(_HEAD_END, begin + MIN_CHUNKED_SLICE_BYTES * self._in_body, end)
        return end if found < 0 else found + len(_HEAD_END)

    def _ignore_upgrade(self) -> None:
        """Read the body of a request that offered an upgrade, as that of any other (RFC 9110 section 7.8).

        httptools takes each offer for accepted, and does not parse the body. A new parser does, whose request
        has the same framing and no offer.
        """
        framing = [b"%b: %b\r\n" % field for field in self.headers if field[0] in _FRAMING_FIELDS]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._in_framing_head = True
        try:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
        finally:
            self._in_framing_head = False

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
    def _in_body(self) -> bool:
        """Whether uvicorn's parser is behind a head and before the end of the body."""
        return self._head_complete and not self._between_requests

    @property
    def _request_incomplete(self) -> bool:
        """Whether a part of a request has arrived, and the rest has not."""
        return not self._between_requests

    # ------------------------------------------------------------ what decides which connection makes room

    @property
    def is_idle(self) -> bool:
        """Whether every request is answered, and no other has begun."""
        return self._answered and not (self._request_incomplete or self._input)

    @property
    def is_receiving(self) -> bool:
        """Whether a request has begun, and is not complete."""
        return self._request_incomplete

    # ------------------------------------------------------------ callbacks of uvicorn's parser

    def on_message_begin(self) -> None:
        """Note that a request has begun."""
        if self._in_framing_head:
            return
        self._between_requests = self._head_complete = False
        self._started_at = self.loop.time()
        self._body_received = 0
        self._content_length = None
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Add *url* to the target."""
        if not self._in_framing_head:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a field to the head; a trailer is none of them (RFC 9110 section 6.5.1), and is dropped."""
        if not (self._in_framing_head or self._head_complete):
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Note that the head is complete; a request whose body is too large is the connection's last."""
        if self._in_framing_head:
            return
        self._head_complete = True
        self._bytes_besides_body = 0
        super().on_headers_complete()
        declared = next((value for name, value in self.headers if name == b"content-length"), b"")
        if len(declared) > 18 or int(declared or b"0") > self._body_size:
            self.cycle.keep_alive = False
        if declared:
            self._content_length = int(declared)
        if not self.cycle.keep_alive:
            self._linger_after_answer()

    def on_body(self, body: bytes) -> None:
        """Count the body's bytes: a request whose body turns out too large is the connection's last."""
        self._bytes_besides_body = 0
        self._body_received += len(body)
        if self._body_received > self._body_size and self.cycle.keep_alive:
            self.cycle.keep_alive = False
            self._linger_after_answer()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        if self.parser.should_upgrade():
            return  # its body follows: `_ignore_upgrade`
        self._between_requests = True
        if self._first_request:
            self._on_first_request()
        self._bytes_besides_body = 0
        super().on_message_complete()

    def _on_first_request(self) -> None:
        self._first_request = False
        self.open_connections.enter(ConnectionStage.ACTIVE, self.transport)

    def on_response_complete(self) -> None:
        """Go on with the next request, unless this was the last."""
        if self._discarding:
            self.server_state.total_requests += 1
            return
        super().on_response_complete()
        if self._input and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._parse()

    # ------------------------------------------------------------ output that nobody reads

    def pause_writing(self) -> None:
        """Wait with further answers, but not for a client that reads none."""
        super().pause_writing()
        self._watch_answers()

    def resume_writing(self) -> None:
        """Answer again."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_watching()

    def _watch_answers(self) -> None:
        self._stop_watching()
        timeout = min(self._timeouts.answer, LINGER_SECONDS) if self._stopping else self._timeouts.answer
        self._stall_detector = StallDetector(self.transport, self.loop, monotonic, timeout)

    def _stop_watching(self) -> None:
        if self._stall_detector is not None:
            self._stall_detector.cancel()
            self._stall_detector = None

    def eof_received(self) -> None:
        """Close, as uvicorn does; asyncio waits until the client has read its answers."""
        super().eof_received()
        if self.transport.get_write_buffer_size():
            self._watch_answers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the application know, and end the watch over unread answers."""
        if self._stall_detector is not None:
            self._counts.stalled += self._stall_detector.stalled
        self._stop_watching()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

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
            self._close_between_requests()
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
                self._close_between_requests()
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
        headers_of_all = self.server_state.default_headers
        for name, value in _without_keep_alive(headers_of_all) if self._stopping else headers_of_all:
            lines += (name, b": ", value, b"\r\n")
        for key, text in headers.items():
            lines.append(f"{key}: {text}\r\n".encode("latin-1"))
        if self._stopping:
            lines.append(b"connection: close\r\n")
        lines.append(b"content-length: %d\r\ncontent-type: %b\r\n\r\n" % (len(body), content_type.header))
        lines.append(body)
        return b"".join(lines)

    def _linger_after_answer(self) -> None:
        """Let the current request's answer end with a close that does not reset the connection."""
        self.cycle.default_headers = _without_keep_alive(self.cycle.default_headers)
        self.cycle.transport = cast("Any", _LingeringTransport(self.transport, self._close))

    def _close(self) -> None:
        if self._between_requests and not self._input:
            self._close_between_requests()
        else:
            self._close_lingering()

    def _close_between_requests(self) -> None:
        """Close once the client has read its answers; abort the connection if it does not read them."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._watch_answers()

    def shutdown(self) -> None:
        """Close once the present request is answered, and no longer wait for a client that does not read."""
        self._stopping = True
        super().shutdown()
        if not self._answered:
            self._linger_after_answer()
        if self.transport.get_write_buffer_size():
            self._watch_answers()

    def _close_lingering(self) -> None:
        """Close, and discard input until then: closing over unread input resets, and loses the answer."""
        if self.transport.is_closing() or self._discarding:
            return
        self._discarding = True
        self._unset_keepalive_if_required()
        close_lingering(self.transport, self.open_connections, timeout=LINGER_SECONDS)
        # A route that still waits for the body gets a disconnect.
        self.connection_lost(ConnectionAbortedError())

    def _set_timer(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)


def _without_keep_alive(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the *headers* of an answer after which the connection is closed."""
    return [header for header in headers if header[0] != b"keep-alive"]


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
