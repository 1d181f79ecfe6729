"""A chat: accounts, rooms and messages belong to this backend, the gateway delivers.

A message is stored in the database first and published under its own id as key: if the answer is lost and the
browser sends it again, nobody gets it twice.
"""

import sqlite3
import time
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from example_backend import Accounts, Settings, new_app, serve_page
from fanway_client.admin import AsyncFanwayAdmin
from fanway_client.fastapi import FanwayBackend
from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

SHOWN = 50
"""Messages of a room that a page begins with."""


class NewMessage(BaseModel):
    """A message that a browser sends."""

    id: Annotated[str, Field(min_length=8, max_length=64)]
    """Chosen by the browser, so that it can send the same message again."""
    text: Annotated[str, Field(min_length=1, max_length=2_000)]


class Messages:
    """The messages of all rooms, in SQLite."""

    def __init__(self, database: str) -> None:
        self._lock = Lock()
        self._db = sqlite3.connect(database, check_same_thread=False)
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS messages "
            "(number INTEGER PRIMARY KEY, id TEXT UNIQUE, room TEXT, user TEXT, text TEXT, at REAL)"
        )

    def add(self, room: str, user: str, message: NewMessage) -> dict[str, Any]:
        """Store *message* unless it is stored already; return it as it is published."""
        with self._lock, self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO messages (id, room, user, text, at) VALUES (?, ?, ?, ?, ?)",
                (message.id, room, user, message.text, time.time()),
            )
            row = self._db.execute(
                "SELECT id, user, text, at FROM messages WHERE id = ?", (message.id,)
            ).fetchone()
        return dict(zip(("id", "user", "text", "at"), row, strict=True))

    def newest(self, room: str) -> list[dict[str, Any]]:
        """Return the newest messages of *room*, the oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, user, text, at FROM messages WHERE room = ? ORDER BY number DESC LIMIT ?",
                (room, SHOWN),
            ).fetchall()
        return [dict(zip(("id", "user", "text", "at"), row, strict=True)) for row in reversed(rows)]


def create_app() -> FastAPI:
    """Return the application; `uvicorn --factory` calls it."""
    settings, accounts = Settings(), Accounts()
    fanway = FanwayBackend(settings.push_url, settings.push_key, secret=settings.secret)
    messages = Messages(settings.database)
    app = new_app(settings, fanway, accounts)
    gateway = Annotated[AsyncFanwayAdmin, Depends(fanway.admin)]
    logged_in = Annotated[str, Depends(accounts.user)]

    @app.get("/rooms/{room}/messages")
    async def read(room: str, _: logged_in, admin: gateway) -> dict[str, Any]:
        # The position first: what is published after it reaches the page through the gateway. A message that
        # is in both is shown once, because the page knows it by its id.
        position = (await admin.history(f"chat:{room}", limit=0))["position"]
        return {"position": position, "messages": messages.newest(room)}

    @app.post("/rooms/{room}/messages")
    async def send(room: str, message: NewMessage, user: logged_in, admin: gateway) -> dict[str, Any]:
        stored = messages.add(room, user, message)
        await admin.publish(f"chat:{room}", stored, key=message.id)
        return stored

    serve_page(app, Path(__file__).parent)
    return app
