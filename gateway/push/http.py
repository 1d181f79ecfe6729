"""HTTP/1.1 on the internal listener: requests that must come in time, and answers that arrive."""

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

LINGER = 5.0
"""Seconds for which what a client still sends is discarded, so that it reads why nobody wants it."""


_LATE = render(Rejection(ErrorCode.BAD_REQUEST, "the request did not come in time"), status=408)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client may take, in seconds; uvicorn itself waits for ever."""

    head: float = defaults.HEADER_TIMEOUT_SECONDS
    """Until a request's head is there."""
    whole: float = 30.0
    """Until its body is."""


class InternalHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with deadlines, and with answers that no reset takes away."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        body_size: int,
        patience: Patience,
    ) -> None:
        """Bind *body_size* and *patience* with `functools.partial`; nobody reads more of a body than that."""
        super().__init__(config, server_state, app_state, _loop)
        self._body_size = body_size
        self._patience = patience
        self._body = 0
        """Bytes of the present request's body, as far as it has come."""
        self._headed = False
        """Whether the present request's head is here."""
        self._between = True
        """Whether uvicorn's parser is at the beginning of a request."""
        self._begun = 0.0
        """When the present request began, or the connection."""
        self._unused = True
        """Whether there was no request yet."""
        self._left = False
        """Whether what still comes is somebody else's business."""
        self._stopping = False
        self._last_used = 0.0

    # ------------------------------------------------------------ in

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and expect a request in time."""
        super().connection_made(transport)
        self._begun = self.loop.time()
        self._expect_more(self._patience.head)

    def data_received(self, data: bytes) -> None:
        """Parse *data*, and expect the rest in time."""
        super().data_received(data)
        if self._left or self.transport.is_closing():
            return
        if self._body > self._body_size and self._answered:
            self._end()
        elif self.timeout_keep_alive_task is None:
            self._watch()

    def _watch(self) -> None:
        """Look again when what the client owes is due; uvicorn forgets its timer with each read."""
        due = self._due
        if due is not None:
            self._expect_more(max(0.0, due - self.loop.time()))
        elif self._answered:
            self._expect_more(self.timeout_keep_alive)

    @property
    def _due(self) -> float | None:
        """When the client must have sent what it began; None where it has."""
        if self._unfinished:
            return self._begun + (self._patience.whole if self._headed else self._patience.head)
        return self._begun + self._patience.head if self._unused else None

    @property
    def _answered(self) -> bool:
        """Whether the last request whose head is here has its answer."""
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr] # None at first

    @property
    def _unfinished(self) -> bool:
        """Whether a part of a request is here, and the rest is not."""
        return not self._between

    # ------------------------------------------------------------ what uvicorn's parser tells

    def on_message_begin(self) -> None:
        """Note that a request has begun."""
        self._between = self._headed = False
        self._begun = self.loop.time()
        self._body = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that its head is here; a body that nobody will read is the last of this connection."""
        self._headed = True
        super().on_headers_complete()
        declared = next((value for name, value in self.headers if name == b"content-length"), b"")
        if len(declared) > 18 or int(declared or b"0") > self._body_size:
            self.cycle.keep_alive = False
        if not self.cycle.keep_alive:
            self._linger()

    def on_body(self, body: bytes) -> None:
        """Count it: where it turns out too large, nothing more is read of this connection."""
        self._body += len(body)
        if self._body > self._body_size and self.cycle.keep_alive:
            self.cycle.keep_alive = False
            self._linger()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that it has ended."""
        self._between = True
        self._unused = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, unless this was the last."""
        if self._left:
            self.server_state.total_requests += 1
        else:
            super().on_response_complete()

    # ------------------------------------------------------------ the end

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it was idle for long enough; a timer for every request would cost more."""
        if self.transport.is_closing():
            return
        now, due = self.loop.time(), self._due
        idle_until = self._last_used + self.timeout_keep_alive
        left = (idle_until if due is None else due) - now
        if left > 0:
            self._expect_more(left)
        elif due is None:
            super().timeout_keep_alive_handler()
        else:
            self._too_late()

    def _too_late(self) -> None:
        """End a connection whose client does not finish what it began."""
        if self._between or not self._headed:
            # The last answer was for an earlier request.
            if not self._answered:
                self._expect_more(self._patience.head)
            elif self._unfinished:
                self._reject(_LATE)
            else:
                self.transport.close()
        elif self._answered:
            self._leave()
        elif self.cycle.response_started or self.pipeline:
            self._expect_more(self._patience.head)
        else:
            self._reject(_LATE)

    def _reject(self, rejected: HttpRejection) -> None:
        self._stopping = True
        self.transport.write(self._response(rejected.status, rejected.headers, JSON, rejected.json()))
        self._leave()

    def _response(self, status: int, headers: Mapping[str, str], media: ContentType, body: bytes) -> bytes:
        lines = [STATUS_LINE[status]]
        for name, value in self.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        for key, text in headers.items():
            lines.append(f"{key}: {text}\r\n".encode("latin-1"))
        if self._stopping:
            lines.append(b"connection: close\r\n")
        lines.append(b"content-length: %d\r\ncontent-type: %b\r\n\r\n" % (len(body), media.header))
        lines.append(body)
        return b"".join(lines)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as everything else is answered."""
        self._reject(render(Rejection(ErrorCode.BAD_REQUEST, msg)))

    def _linger(self) -> None:
        """Let the end of the present request's answer be one that its client gets to read."""
        self.cycle.transport = cast("Any", _Lingering(self.transport, self._end))

    def _end(self) -> None:
        if self._between:
            self.transport.close()
        else:
            self._leave()

    def _leave(self) -> None:
        """Discard what still comes, then close: over unread input it would be a reset, and no answer."""
        if self.transport.is_closing() or self._left:
            return
        self._left = True
        self._unset_keepalive_if_required()
        # Whoever still waits for the body hears that there is no more.
        self.connection_lost(ConnectionAbortedError())
        close_lingering(self.transport, self.server_state, timeout=LINGER)

    def _expect_more(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)


class _Lingering:
    """A transport as the answer to one request sees it."""

    __slots__ = ("_transport", "close")

    def __init__(self, transport: asyncio.Transport, close: Any) -> None:
        self._transport = transport
        self.close = close

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()
