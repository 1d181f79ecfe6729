"""A fast path for `POST /v1/publish`: from one read to one write, without ASGI in between.

It serves requests that succeed. Whatever is unusual about a request, and every request that is to be
rejected, goes to the routes: the fast path decides nothing that they would decide differently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.broker.base import Publication
from gateway.errors import UNAVAILABLE_RETRY_SECONDS, Rejection
from gateway.push.content_types import ContentType
from gateway.push.context import PushContext
from gateway.push.errors import http_rejection
from gateway.push.header_cache import HeaderCache, ParsedBlock
from gateway.push.http import HttpCounts, InternalHttp, RequestTimeouts
from gateway.push.publisher import RequestPublisher
from gateway.push.responses import ResponseBody
from gateway.transport.http.bounded_head import HeadLimits
from gateway.transport.http.open_connections import OpenConnections
from gateway.transport.http.rejections import HttpRejection, render
from protocol.errors import ErrorCode

MAX_BUFFERED_BYTES = 128 * 1024
"""Bytes of a request that is buffered here when it arrives in pieces; larger ones go to the routes."""

_NO_HEADERS: Mapping[str, str] = {}

_STOPPING = render(Rejection(ErrorCode.UNAVAILABLE, "the gateway is stopping", UNAVAILABLE_RETRY_SECONDS))


class FastPath:
    """What the connections of one listener share: caches, the publisher, counters."""

    __slots__ = (
        "_default_headers",
        "_response_heads",
        "bodies",
        "body_size",
        "head_limits",
        "header_cache",
        "http_counts",
        "limits",
        "published",
        "publisher",
        "tasks",
        "timeouts",
    )

    def __init__(
        self,
        context: PushContext,
        timeouts: RequestTimeouts = RequestTimeouts(),  # noqa: B008 (immutable)
        head_limits: HeadLimits = HeadLimits(),  # noqa: B008 (immutable)
    ) -> None:
        """Publish as the routes over *context* do."""
        self.timeouts = timeouts
        self.head_limits = head_limits
        self.http_counts = HttpCounts()
        self.header_cache = HeaderCache(context.keys, loopback_hosts_only=context.loopback_hosts_only)
        self.publisher = RequestPublisher(context)
        self.tasks = context.tasks
        self.body_size = context.body_size
        self.bodies = context.bodies
        self.limits = context.limits
        self.published = 0
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._response_heads: dict[str, bytes] = {}

    def response_head(self, default_headers: list[tuple[bytes, bytes]], content_type: ContentType) -> bytes:
        """Return the beginning of every 200; it is made again when uvicorn replaces its *default_headers*."""
        if default_headers is not self._default_headers:
            self._default_headers = default_headers
            self._response_heads.clear()
        head = self._response_heads.get(content_type.name)
        if head is None:
            lines = [b"%b: %b\r\n" % header for header in default_headers]
            head = b"%b%bcontent-type: %b\r\n" % (STATUS_LINE[200], b"".join(lines), content_type.header)
            self._response_heads[content_type.name] = head
        return head

    async def publish(self, publication: Publication) -> ResponseBody | HttpRejection:
        """Publish, and return the answer; never raises."""
        try:
            return await self.publisher.publish(publication)
        except Exception as error:  # noqa: BLE001 (what the routes answer by way of RENDERERS)
            return http_rejection(error)

    def statistics(self) -> dict[str, int]:
        """Return how many requests took the fast path or were rejected, and how many blocks are cached."""
        return {
            "published": self.published,
            "heads": len(self.header_cache),
            "rejected_heads": self.http_counts.rejected_heads,
            "stalled": self.http_counts.stalled,
            **self.limits.statistics(),
        }


class FastPathHttp(InternalHttp):
    """HTTP with a fast path for the request that makes up nearly all of the load."""

    def __init__(
        self,
        config: Config,
        server_state: OpenConnections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        fast_path: FastPath,
    ) -> None:
        """Bind *fast_path* with `functools.partial` and name the result as uvicorn's `http`."""
        super().__init__(
            config,
            server_state,
            app_state,
            _loop,
            body_size=fast_path.body_size,
            timeouts=fast_path.timeouts,
            head_limits=fast_path.head_limits,
            counts=fast_path.http_counts,
        )
        self._fast_path = fast_path
        self._enabled = not config.root_path and config.limit_concurrency is None
        self._buffer = bytearray()
        """A request that is not complete, or input that arrived during a publish."""
        self._expected = 0
        """Bytes of the request in the buffer once it is complete."""
        self._counted = 0
        """Those of them that are counted with the bodies of all requests."""
        self._publish_task: asyncio.Task[ResponseBody | HttpRejection] | None = None
        """A publish that waits for the broker; input that arrives meanwhile waits in `_buffer`."""

    # ------------------------------------------------------------ input

    def data_received(self, data: bytes) -> None:
        """Serve *data* on the fast path if it is a whole publish, else by the routes."""
        if self._buffer or self._publish_task is not None:
            self._buffer += data
            if self._publish_task is not None:
                self.flow.pause_reading()
                return
            if len(self._buffer) < self._expected:
                return
            data = self._take_buffer()
        if not self._serve(data):
            super().data_received(data)

    def _serve(self, data: bytes) -> bool:
        """Return whether the fast path takes *data*."""
        if not self._idle:
            return False
        found = self._fast_path.header_cache.find(data)
        if found is None:
            return False
        block, begin, end = found
        if end - begin > self._fast_path.body_size:
            return False
        if len(data) != end:
            return self._start_buffering(data, end)
        body = data[begin:]
        try:
            json_text = body if block.request_type.is_json else None
            decoded = block.request_type.decode(body)
            publication = self._fast_path.publisher.parse(decoded, json_text=json_text)
        except Exception:  # noqa: BLE001 (nothing was published yet: the routes find the same fault, and answer it)
            return False
        return self._start_publish(block, publication)

    def _start_publish(self, block: ParsedBlock, publication: Publication) -> bool:
        """Publish and answer; False if that exceeds the limits, which the routes then say."""
        limits = self._fast_path.limits
        if limits.in_progress >= limits.concurrency or (limits.rate and limits.seconds_to_wait(block.key, 1)):
            return False
        if self._first_request:
            self._on_first_request()
            self._unset_keepalive_if_required()
        self._last_used_at = self.loop.time()
        answer = self._fast_path.tasks.start(self._fast_path.publish(publication))
        if isinstance(answer, asyncio.Task):
            self._publish_task = answer
            limits.in_progress += 1
            answer.add_done_callback(partial(self._on_published, block.answer_type))
        else:
            self._send(block.answer_type, answer)
        return True

    @property
    def _idle(self) -> bool:
        """Whether no earlier request is still being read or answered, and the client reads its answers."""
        return self._enabled and self._between_requests and self._answered and not self.flow.write_paused

    @property
    def is_idle(self) -> bool:
        """Whether every request is answered, and no other has begun."""
        return self._publish_task is None and super().is_idle

    def _start_buffering(self, data: bytes, end: int) -> bool:
        """Keep the beginning of a request until its end arrives: many clients send the body separately."""
        if len(data) > end or end > MAX_BUFFERED_BYTES or not self._fast_path.bodies.take(end):
            return False
        self._counted = end
        self._started_at = self.loop.time()
        self._buffer += data
        self._expected = end
        return True

    def _take_buffer(self) -> bytes:
        data = bytes(self._buffer)
        self._clear_buffer()
        return data

    def _clear_buffer(self) -> None:
        self._buffer.clear()
        self._fast_path.bodies.give_back(self._counted)
        self._counted = 0

    # ------------------------------------------------------------ output

    def _on_published(
        self, answer_type: ContentType, task: asyncio.Task[ResponseBody | HttpRejection]
    ) -> None:
        """Answer, then go on with the input that arrived meanwhile."""
        self._publish_task = None
        self._fast_path.limits.in_progress -= 1
        self._last_used_at = self.loop.time()
        self._send(answer_type, _STOPPING if task.cancelled() else task.result())
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._buffer:
            self.data_received(self._take_buffer())

    def _send(self, answer_type: ContentType, answer: ResponseBody | HttpRejection) -> None:
        if self.transport.is_closing():
            return
        status, headers = 200, _NO_HEADERS
        if isinstance(answer, HttpRejection):
            status, headers, answer = answer.status, answer.headers, answer.body
        else:
            self._fast_path.published += 1
        self.server_state.total_requests += 1
        body = answer_type.encode(answer)
        if status == 200 and not self._stopping:
            head = self._fast_path.response_head(self.server_state.default_headers, answer_type)
            self.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        else:
            self.transport.write(self._response(status, headers, answer_type, body))
        if self._stopping:
            self._close_between_requests()
        elif self.timeout_keep_alive_task is None:
            self._set_timer(self.timeout_keep_alive)

    # ------------------------------------------------------------ timeouts and the end

    @property
    def _deadline(self) -> float | None:
        if self._publish_task is not None:
            return None
        return self._started_at + self._timeouts.body if self._buffer else super()._deadline

    @property
    def _request_incomplete(self) -> bool:
        return bool(self._buffer) or super()._request_incomplete

    def timeout_keep_alive_handler(self) -> None:
        """End what is late or idle; a connection whose publish waits for the broker is neither."""
        if self._publish_task is None:
            super().timeout_keep_alive_handler()
        else:
            self._set_timer(self.timeout_keep_alive)

    def shutdown(self) -> None:
        """Close once the requests that have begun are answered."""
        self._stopping = True
        if self._publish_task is not None:
            return
        if self._buffer:
            super().data_received(self._take_buffer())
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Discard an incomplete request; a publish that waits for the broker goes on."""
        self._clear_buffer()
        super().connection_lost(exc)
