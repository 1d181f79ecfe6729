"""Positions that outlive the process: after a restart, each channel goes on where it was left."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from fanway_client._protocol.position import MessageId
from fanway_client.environment import Tasks, Timer, Timers, answer_of

SAVE_SECONDS = 1.0
"""Changes are saved together: a process that is killed handles the messages of this time again."""


Loaded = Mapping[str, str] | None
"""Positions by channel, or nothing."""


class Positions(Protocol):
    """Where positions are kept: by channel, the id of the last message that was handled; opaque strings."""

    def load(self) -> Loaded | Awaitable[Loaded]:
        """Return what `save` got last; None if there is nothing. Called once, before the first connection."""

    def save(self, positions: Mapping[str, str]) -> Awaitable[None] | None:
        """Keep *positions* instead of all earlier ones; called once at a time. Must not block for long."""


class FilePositions:
    """Positions in a JSON file, which is replaced as a whole. Each client needs a file of its own."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def __repr__(self) -> str:
        return f"<FilePositions {self._path}>"

    def load(self) -> Mapping[str, str] | None:
        """Return the positions in the file; None if there is none.

        Raises:
            ValueError: The file has something else than positions.
        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        with suppress(ValueError):
            positions = json.loads(text)
            if isinstance(positions, dict) and all(isinstance(each, str) for each in positions.values()):
                return positions
        raise ValueError(f"{self._path}: expected a JSON object of positions; delete it to begin anew")

    def save(self, positions: Mapping[str, str]) -> None:
        """Write *positions*, so that the file is never half written."""
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=self._path.parent, prefix=f".{self._path.name}-", delete=False
        ) as file:
            try:
                json.dump(dict(positions), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(self._path)
            except BaseException:
                Path(file.name).unlink()
                raise


class SavedPositions:
    """The positions of one client: those that were loaded, and what its channels have handled since."""

    def __init__(
        self,
        timers: Timers,
        saves: Tasks,
        store: Positions | None,
        loaded: Loaded,
        on_error: Callable[[Exception], None],
    ) -> None:
        self._timers = timers
        self._saves = saves
        self._store = store
        self._on_error = on_error
        self._timer: Timer | None = None
        self._handled: dict[str, Callable[[], str | None]] = {}
        """Channels with changes, and what returns their positions."""
        self._positions: dict[str, str] = _checked(loaded or {})
        self._stored = dict(self._positions)
        """What the store has."""
        self._stopped = False

    def get(self, channel: str) -> str | None:
        """Return the position of *channel* that was saved."""
        return self._positions.get(channel)

    def changed(self, channel: str, handled: Callable[[], str | None]) -> None:
        """Save what *handled* returns for *channel*, soon and at the latest with `flush`."""
        if self._store is None or self._stopped:
            return
        self._handled[channel] = handled
        if self._timer is None:
            self._timer = self._timers.call_later(SAVE_SECONDS, self.flush)

    def flush(self) -> None:
        """Save now, if anything has changed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for channel in tuple(self._handled):
            self.settle(channel)
        if self._store is None or len(self._saves) or self._positions == self._stored:
            return
        positions = dict(self._positions)
        try:
            saving = self._store.save(positions)
        except Exception as error:  # noqa: BLE001 (whatever the store raises; the next change tries again)
            self._on_error(error)
            return
        if saving is None:
            self._stored = positions
        else:
            self._saves.spawn(self._finish(saving, positions))

    async def _finish(self, saving: Awaitable[None] | None, positions: dict[str, str]) -> None:
        """Wait for *saving*, and save once more if there were changes in the meantime."""
        try:
            while self._store is not None:
                await answer_of(saving, "positions.save")
                self._stored = positions
                if self._positions == positions:
                    return
                positions = dict(self._positions)
                saving = self._store.save(positions)
        except Exception as error:  # noqa: BLE001 (whatever the store raises; the next change tries again)
            self._on_error(error)

    def settle(self, channel: str) -> None:
        """Note the position of *channel* now: nobody listens to it any more."""
        handled = self._handled.pop(channel, None)
        position = None if handled is None else handled()
        if position is not None:
            self._positions[channel] = position

    def stop(self) -> None:
        """Save, and take no changes until `restart`."""
        self.flush()
        self._stopped = True

    def restart(self) -> None:
        """Take changes again."""
        self._stopped = False


def _checked(positions: Mapping[str, str]) -> dict[str, str]:
    for channel, position in positions.items():
        try:
            MessageId.parse(position)
        except (TypeError, ValueError):
            raise ValueError(f"positions: {channel!r} has {position!r}, which is not a position") from None
    return dict(positions)
