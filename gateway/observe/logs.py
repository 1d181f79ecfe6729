"""Structured logs: one event per line, without tokens and payloads, control characters escaped."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Literal, TextIO

import structlog

_MAX_TEXT_LENGTH = 500


def configure(level: str = "info", style: Literal["auto", "json", "console"] = "auto") -> None:
    """Log to stderr, from *level* on: as JSON, or for people where stderr is a terminal (*style* `auto`)."""
    json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    stderr: Any = FailureTolerantStream(sys.stderr)
    renderer: Any = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer()
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        escape_texts,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.WARNING))


class FailureTolerantStream:
    """A stream that discards what cannot be written, instead of raising.

    A closed terminal, or a log collector that ended, must not stop the gateway.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to *stream*."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write *text*, or discard it."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush; errors are ignored."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def escape_texts(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape control characters in every text of *event*, and cut it: it may contain what a client sent."""
    for key, value in event.items():
        if (
            isinstance(value, str)
            and key != "exception"
            and (not value.isprintable() or len(value) > _MAX_TEXT_LENGTH)
        ):
            event[key] = value[:_MAX_TEXT_LENGTH].encode("unicode_escape").decode("ascii")
    return event


def logger() -> Any:
    """Return the logger of this package."""
    return structlog.get_logger("fanway")
