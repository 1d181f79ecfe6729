"""uvicorn's HTTP protocol with bounds on the head of a request, the same on both listeners.

uvicorn and httptools have no bounds: they keep every field of a head that never ends.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import Rejection
from gateway.transport.http.open_connections import OpenConnections
from gateway.transport.http.rejections import HttpRejection, render
from protocol.errors import ErrorCode


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """The bounds of a request's head (docs/security.md#bounds)."""

    size: int = 16 * 1024
    """Bytes in the whole head; 431 beyond (RFC 6585 section 5)."""
    fields: int = 100
    """Header fields; 431 beyond. As many as Apache's LimitRequestFields."""
    target: int = 8 * 1024
    """Bytes in the request's target; 414 beyond. RFC 9112 section 3 asks for 8,000 in the request line."""


class HeadLimitError(Exception):
    """Ends the parsing of a head that exceeds a limit."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class BoundedHeadHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol, whose parser stops at the first target or field beyond the limits.

    A subclass also bounds the bytes that it gives to the parser: httptools keeps an unfinished field.
    """

    def __init__(
        self,
        config: Config,
        server_state: OpenConnections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        head_limits: HeadLimits,
    ) -> None:
        """Stop at *head_limits*."""
        super().__init__(config, server_state, app_state, _loop)
        self.open_connections = server_state
        self._head_limits = head_limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, which is aborted at once where there is no room for it."""
        super().connection_made(transport)
        self.open_connections.opened(transport, self.client[0] if self.client else "")

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection no longer, unless its socket was left to `close_lingering`."""
        if self.transport.get_protocol() is self:
            self.open_connections.closed(self.transport)
        super().connection_lost(exc)

    def on_url(self, url: bytes) -> None:
        """Add *url* to the target."""
        super().on_url(url)
        if len(self.url) > self._head_limits.target:
            raise HeadLimitError(
                HTTPStatus.REQUEST_URI_TOO_LONG,
                f"the target of a request has at most {self._head_limits.target} bytes",
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a field to the head."""
        if len(self.headers) >= self._head_limits.fields:
            raise HeadLimitError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the head of a request has at most {self._head_limits.fields} fields",
            )
        super().on_header(name, value)

    def head_too_large(self) -> HeadLimitError:
        """Return the error of a head with too many bytes."""
        return HeadLimitError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the head of a request has at most {self._head_limits.size} bytes",
        )


def rejection_of(error: Exception) -> HttpRejection:
    """Return the answer to a request whose parsing ended with *error*: 414, 431, or 400."""
    cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
    status, message = HTTPStatus.BAD_REQUEST, "a malformed HTTP request"
    if isinstance(cause, HeadLimitError):
        status, message = cause.status, str(cause)
    return render(Rejection(ErrorCode.BAD_REQUEST, message), status=status)
