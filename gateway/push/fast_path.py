"""The short way of `POST /v1/publish`: from one read to one write, without ASGI in between.

It shortens the successful case only. Whatever is unusual about a request, and every request that is to be
refused, goes the long way, to the routes that answer everything else: nothing is decided here that they would
decide differently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from gateway.broker.base import Publication
from gateway.errors import UNAVAILABLE_RETRY_SECONDS, Rejection
from gateway.push.content_types import ContentType
from gateway.push.errors import http_rejection
from gateway.push.header_cache import HeaderCache
from gateway.push.http import InternalHttp, Patience
from gateway.push.publisher import Answer, Publisher
from gateway.push.service import Service
from gateway.transport.http.rejections import HttpRejection, render
from protocol.errors import ErrorCode

LARGEST = 128 * 1024
"""Bytes of a request that is gathered here when it comes in pieces; larger ones go the long way."""

_NO_HEADERS: Mapping[str, str] = {}

_STOPPING = render(Rejection(ErrorCode.UNAVAILABLE, "the gateway is stopping", UNAVAILABLE_RETRY_SECONDS))


class FastPath:
    """What the connections of one listener share."""

    __slots__ = ("_default", "_heads", "body_size", "heads", "patience", "published", "publisher", "tasks")

    def __init__(self, service: Service, patience: Patience = Patience()) -> None:  # noqa: B008 (immutable)
        """Publish as the routes of *service* do."""
        self.patience = patience
        self.heads = HeaderCache(service.keys)
        self.publisher = Publisher(service)
        self.tasks = service.tasks
        self.body_size = service.body_size
        self.published = 0
        self._default: list[tuple[bytes, bytes]] = []
        self._heads: dict[str, bytes] = {}

    def head(self, default: list[tuple[bytes, bytes]], media: ContentType) -> bytes:
        """Return the beginning of every 200, made anew when uvicorn's *default* headers change."""
        if default is not self._default:
            self._default = default
            self._heads.clear()
        head = self._heads.get(media.name)
        if head is None:
            lines = [b"%b: %b\r\n" % header for header in default]
            head = b"%b%bcontent-type: %b\r\n" % (STATUS_LINE[200], b"".join(lines), media.header)
            self._heads[media.name] = head
        return head

    async def attempt(self, publication: Publication) -> Answer | HttpRejection:
        """Publish; return what to answer, whatever happens."""
        try:
            return await self.publisher.publish(publication)
        except Exception as error:  # noqa: BLE001 (what the routes answer by way of RENDERERS)
            return http_rejection(error)

    def statistics(self) -> dict[str, int]:
        """Return how many requests went the short way, and how many header blocks are remembered."""
        return {"published": self.published, "heads": len(self.heads)}


class FastPathHttp(InternalHttp):
    """HTTP with a short way for the request that makes up nearly all of the load."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        hot: FastPath,
    ) -> None:
        """Bind *hot* with `functools.partial` and name the result as uvicorn's `http`."""
        super().__init__(
            config, server_state, app_state, _loop, body_size=hot.body_size, patience=hot.patience
        )
        self._hot = hot
        self._enabled = not config.root_path and config.limit_concurrency is None
        self._pieces = bytearray()
        """A request whose end has not come yet."""
        self._whole = 0
        """How long it will be."""
        self._publishing: asyncio.Task[Answer | HttpRejection] | None = None
        """A publish that waits for the broker; what comes meanwhile waits in `_pieces`."""

    # ------------------------------------------------------------ in

    def data_received(self, data: bytes) -> None:
        """Serve *data* the short way if it is a whole publish, else the long way."""
        if self._pieces or self._publishing is not None:
            self._pieces += data
            if self._publishing is not None:
                self.flow.pause_reading()
                return
            if len(self._pieces) < self._whole:
                return
            data = self._gathered()
        if not self._serve(data):
            super().data_received(data)

    def _serve(self, data: bytes) -> bool:
        """Return whether *data* was taken care of."""
        if not self._idle:
            return False
        found = self._hot.heads.find(data)
        if found is None:
            return False
        head, begin, end = found
        if end - begin > self._hot.body_size:
            return False
        if len(data) != end:
            return self._gather(data, end)
        body = data[begin:]
        try:
            source = body if head.media.text else None
            publication = self._hot.publisher.publication(head.media.decode(body), source=source)
        except Exception:  # noqa: BLE001 (nothing was published yet: the routes find the same, and say it)
            return False
        if self._unused:
            self._unused = False
            self._unset_keepalive_if_required()
        self._last_used = self.loop.time()
        answer = self._hot.tasks.start(self._hot.attempt(publication))
        if isinstance(answer, asyncio.Task):
            self._publishing = answer
            answer.add_done_callback(partial(self._published, head.answer))
        else:
            self._answer(head.answer, answer)
        return True

    @property
    def _idle(self) -> bool:
        """Whether no earlier request is still being read or answered, and the client takes its answers."""
        return self._enabled and self._between and self._answered and not self.flow.write_paused

    def _gather(self, data: bytes, end: int) -> bool:
        """Keep the beginning of a request until its end comes: many clients send head and body separately."""
        if len(data) > end or end > LARGEST:
            return False
        self._begun = self.loop.time()
        self._pieces += data
        self._whole = end
        return True

    def _gathered(self) -> bytes:
        data = bytes(self._pieces)
        self._pieces.clear()
        return data

    # ------------------------------------------------------------ out

    def _published(self, media: ContentType, task: asyncio.Task[Answer | HttpRejection]) -> None:
        """Answer, then go on with what came meanwhile."""
        self._publishing = None
        self._answer(media, _STOPPING if task.cancelled() else task.result())
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._pieces:
            self.data_received(self._gathered())

    def _answer(self, media: ContentType, answer: Answer | HttpRejection) -> None:
        if self.transport.is_closing():
            return
        status, headers = 200, _NO_HEADERS
        if isinstance(answer, HttpRejection):
            status, headers, answer = answer.status, answer.headers, answer.body
        else:
            self._hot.published += 1
        self.server_state.total_requests += 1
        body = media.encode(answer)
        if status == 200 and not self._stopping:
            head = self._hot.head(self.server_state.default_headers, media)
            self.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        else:
            self.transport.write(self._response(status, headers, media, body))
        if self._stopping:
            self.transport.close()
        elif self.timeout_keep_alive_task is None:
            self._expect_more(self.timeout_keep_alive)

    # ------------------------------------------------------------ the life of a connection

    @property
    def _due(self) -> float | None:
        if self._publishing is not None:
            return None
        return self._begun + self._patience.whole if self._pieces else super()._due

    @property
    def _unfinished(self) -> bool:
        return bool(self._pieces) or super()._unfinished

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it was idle for long enough; while the broker takes its time it is not."""
        if self._publishing is None:
            super().timeout_keep_alive_handler()
        else:
            self._expect_more(self.timeout_keep_alive)

    def shutdown(self) -> None:
        """Close once what was begun is answered."""
        self._stopping = True
        if self._publishing is not None:
            return
        if self._pieces:
            super().data_received(self._gathered())
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what came of a request; a publish that waits goes on."""
        self._pieces.clear()
        super().connection_lost(exc)

    # ------------------------------------------------------------ what uvicorn's parser tells

    def on_headers_complete(self) -> None:
        """Note what makes a connection something else than a row of requests."""
        if self.parser.should_upgrade():
            self._enabled = False
        super().on_headers_complete()
