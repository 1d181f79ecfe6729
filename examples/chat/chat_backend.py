"""A chat: accounts, rooms and messages belong to this backend, the gateway delivers.

A message is stored in the database first and published under its own id as key: if the answer is lost and the
browser sends it again, nobody gets it twice.
"""

import asyncio
import sqlite3
import time
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from example_backend import Accounts, Settings, User, new_app, serve_page
from fanway_client.admin import AsyncFanwayAdmin
from fanway_client.fastapi import FanwayBackend
from fastapi import Depends, FastAPI, HTTPException
from fastapi import Path as InPath
from pydantic import BaseModel, Field

SHOWN = 50
"""Messages of a room that a page begins with."""
COLUMNS = ("number", "id", "user", "text", "at")


class NewMessage(BaseModel):
    """A message that a browser sends."""

    id: Annotated[str, Field(min_length=8, max_length=64)]
    """Chosen by the browser, so that it can send the same message again."""
    text: Annotated[str, Field(min_length=1, max_length=2_000)]


class Messages:
    """The messages of all rooms, in SQLite; methods block, so call them in a thread."""

    def __init__(self, database: str) -> None:
        self._lock = Lock()
        self._db = sqlite3.connect(database, check_same_thread=False)
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS messages "
            "(number INTEGER PRIMARY KEY, id TEXT UNIQUE, room TEXT, user TEXT, text TEXT, at REAL)"
        )

    def add(self, room: str, user: str, message: NewMessage) -> dict[str, Any] | None:
        """Store *message* unless it is stored already; return it as it is published.

        None: a message of another user or room has that id.
        """
        with self._lock, self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO messages (id, room, user, text, at) VALUES (?, ?, ?, ?, ?)",
                (message.id, room, user, message.text, time.time()),
            )
            row = self._db.execute(
                f"SELECT {', '.join(COLUMNS)} FROM messages WHERE id = ? AND room = ? AND user = ?",  # noqa: S608 (constants)
                (message.id, room, user),
            ).fetchone()
        return row and dict(zip(COLUMNS, row, strict=True))

    def newest(self, room: str) -> list[dict[str, Any]]:
        """Return the newest messages of *room*, the oldest first."""
        with self._lock:
            rows = self._db.execute(
                f"SELECT {', '.join(COLUMNS)} FROM messages WHERE room = ? ORDER BY number DESC LIMIT ?",  # noqa: S608 (constants)
                (room, SHOWN),
            ).fetchall()
        return [dict(zip(COLUMNS, row, strict=True)) for row in reversed(rows)]


def create_app() -> FastAPI:
    """Return the application; `uvicorn --factory` calls it."""
    settings, accounts = Settings(), Accounts()
    fanway = FanwayBackend(settings.push_url, settings.push_key, secret=settings.secret)
    messages = Messages(settings.database)
    app = new_app(settings, fanway, accounts)
    gateway = Annotated[AsyncFanwayAdmin, Depends(fanway.admin)]
    logged_in = Annotated[User, Depends(accounts.user)]
    # A room is part of a channel's name, so it has only what such a name may have, and no colon.
    room_name = Annotated[str, InPath(pattern="^[A-Za-z0-9_-]{1,40}$")]

    @app.get("/rooms/{room}/messages")
    async def read(_: logged_in, room: room_name, admin: gateway) -> dict[str, Any]:
        # The position first: what is published after it reaches the page through the gateway. A message that
        # is in both is shown once, because the page knows it by its id.
        position = (await admin.history(f"chat:{room}", limit=0))["position"]
        return {"position": position, "messages": await asyncio.to_thread(messages.newest, room)}

    @app.post("/rooms/{room}/messages")
    async def send(user: logged_in, room: room_name, message: NewMessage, admin: gateway) -> dict[str, Any]:
        stored = await asyncio.to_thread(messages.add, room, user.name, message)
        if stored is None:
            raise HTTPException(409, "another message has this id")
        await admin.publish(f"chat:{room}", stored, key=message.id)
        return stored

    serve_page(app, Path(__file__).parent)
    return app
