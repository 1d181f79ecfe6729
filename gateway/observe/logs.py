"""Structured logs: one event a line, without tokens or payloads, control characters escaped."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Literal, TextIO

import structlog

_LONGEST = 500


def configure(level: str = "info", style: Literal["auto", "json", "console"] = "auto") -> None:
    """Log to stderr: as JSON, or readable where that is a terminal (`auto`)."""
    json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    stderr: Any = Unfailing(sys.stderr)
    renderer: Any = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer()
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        escape,
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


class Unfailing:
    """A stream whose reader may go: what cannot be written is dropped, and stops nobody who logs.

    A terminal that was closed, or a collector that died, must not take the gateway with it.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to *stream*."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write *text*, if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def escape(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make every text in *event* safe to print and of bounded length: what a client wrote may be in it."""
    for key, value in event.items():
        if (
            isinstance(value, str)
            and key != "exception"
            and (not value.isprintable() or len(value) > _LONGEST)
        ):
            event[key] = value[:_LONGEST].encode("unicode_escape").decode("ascii")
    return event


def logger() -> Any:
    """Return the logger of this package."""
    return structlog.get_logger("fanway")
