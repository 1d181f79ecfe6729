"""The workers of one machine: each tells the others its figures, so that any of them answers for all."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from gateway.observe import logs

DEADLINE = 1.0
"""Seconds that another worker has for its answer: Prometheus gives all of them ten."""

END = b"# EOF\n"
"""What a page ends with on its way: a worker may die in the middle of one."""

UP = "fanway_worker_up"


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """One worker among those of its machine."""

    home: str
    """A directory of theirs alone, with a Unix socket for each."""
    number: int
    """This one, of 1 to `count`."""
    count: int

    @contextlib.asynccontextmanager
    async def answering(self, page: Callable[[], bytes]) -> AsyncIterator[None]:
        """Tell *page* to every worker that asks; one that cannot listen serves its clients all the same."""
        try:
            server = await asyncio.get_running_loop().create_unix_server(
                lambda: _Teller(page), self._path(self.number)
            )
        except OSError as error:
            logs.logger().warning("no metrics for other workers", worker=self.number, reason=str(error))
            yield
            return
        try:
            yield
        finally:
            server.close()

    async def pages(self, own: bytes) -> dict[int, bytes | None]:
        """Return every worker's page, by number, this one's being *own*; None where one does not answer."""
        numbers = range(1, self.count + 1)
        found = await asyncio.gather(*(self._page(number, own) for number in numbers))
        return dict(zip(numbers, found, strict=True))

    async def _page(self, number: int, own: bytes) -> bytes | None:
        if number == self.number:
            return own
        try:
            async with asyncio.timeout(DEADLINE):
                reader, writer = await asyncio.open_unix_connection(self._path(number))
                with contextlib.closing(writer):
                    told = await reader.read()
        except OSError:  # a TimeoutError is one
            return None
        return told.removesuffix(END) if told.endswith(END) else None

    def _path(self, number: int) -> str:
        return str(Path(self.home, str(number)))


class _Teller(asyncio.Protocol):
    def __init__(self, page: Callable[[], bytes]) -> None:
        self._page = page

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        told = cast("asyncio.WriteTransport", transport)
        told.write(self._page() + END)
        told.close()


def merged(pages: Mapping[int, bytes | None]) -> bytes:
    """Return one page of *pages*, each metric with the samples of every worker; who is missing is 0."""
    heads: dict[str, str] = {}
    samples: dict[str, list[str]] = {}
    for page in pages.values():
        for block in re.split("^# HELP ", (page or b"").decode(), flags=re.MULTILINE)[1:]:
            about, kind, rest = block.split("\n", 2)
            name = about.partition(" ")[0]
            heads.setdefault(name, f"# HELP {about}\n{kind}\n")
            samples.setdefault(name, []).append(rest)
    missing = [number for number, page in pages.items() if page is None]
    samples.setdefault(UP, []).extend(f'{UP}{{worker="{number}"}} 0.0\n' for number in missing)
    return "".join(heads.get(name, "") + "".join(rows) for name, rows in samples.items()).encode()
