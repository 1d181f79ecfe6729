"""Exchange of metrics among the workers of one machine, so that each of them shows the metrics of all."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from gateway.observe import logs

ANSWER_TIMEOUT_SECONDS = 1.0
"""Time that another worker has to send its metrics: Prometheus' default scrape timeout is ten seconds."""

_END_MARKER = b"# EOF\n"
"""Ends a page between two workers: without it, the sender ended in the middle of the page."""

UP = "fanway_worker_up"


@dataclass(frozen=True, slots=True)
class WorkerMetricsExchange:
    """Sends the metrics of one worker to the others, and collects theirs, over Unix sockets."""

    directory: str
    """A directory of these workers alone, with a socket for each."""
    number: int
    """The number of this worker, from 1 to `count`."""
    count: int

    @contextlib.asynccontextmanager
    async def serving(self, render: Callable[[], bytes]) -> AsyncIterator[None]:
        """Send the page that *render* returns to every worker that connects, while in this context.

        A worker that cannot listen serves its clients all the same; the log says that its metrics are
        missing.
        """
        try:
            server = await asyncio.get_running_loop().create_unix_server(
                lambda: _PageSender(render), self._path(self.number)
            )
        except OSError as error:
            logs.logger().warning("no metrics for other workers", worker=self.number, reason=str(error))
            yield
            return
        try:
            yield
        finally:
            server.close()

    async def collect(self, own_page: bytes) -> dict[int, bytes | None]:
        """Return the page of every worker by its number: *own_page* for this one, None without an answer."""
        numbers = range(1, self.count + 1)
        pages = await asyncio.gather(*(self._fetch(number, own_page) for number in numbers))
        return dict(zip(numbers, pages, strict=True))

    async def _fetch(self, number: int, own_page: bytes) -> bytes | None:
        if number == self.number:
            return own_page
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._path(number))
                with contextlib.closing(writer):
                    page = await reader.read()
        except OSError:  # includes TimeoutError
            return None
        return page.removesuffix(_END_MARKER) if page.endswith(_END_MARKER) else None

    def _path(self, number: int) -> str:
        return str(Path(self.directory, str(number)))


class _PageSender(asyncio.Protocol):
    """Sends a page as soon as another worker has connected."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writer = cast("asyncio.WriteTransport", transport)
        writer.write(self._render() + _END_MARKER)
        writer.close()


def merge_pages(pages: Mapping[int, bytes | None]) -> bytes:
    """Return one page with the samples of all *pages*, by worker number, each metric described once.

    For a worker without a page, `fanway_worker_up` is 0.
    """
    descriptions: dict[str, str] = {}
    samples: dict[str, list[str]] = {}
    for page in pages.values():
        for block in re.split("^# HELP ", (page or b"").decode(), flags=re.MULTILINE)[1:]:
            help_line, type_line, lines = block.split("\n", 2)
            name = help_line.partition(" ")[0]
            descriptions.setdefault(name, f"# HELP {help_line}\n{type_line}\n")
            samples.setdefault(name, []).append(lines)
    missing = [number for number, page in pages.items() if page is None]
    samples.setdefault(UP, []).extend(f'{UP}{{worker="{number}"}} 0.0\n' for number in missing)
    return "".join(descriptions.get(name, "") + "".join(lines) for name, lines in samples.items()).encode()
