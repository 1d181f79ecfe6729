"""A notification bell: any part of the backend notifies users, on all their devices."""

import asyncio
import sqlite3
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from example_backend import Accounts, Name, Settings, User, new_app, serve_page
from fanway_client import FanwayError
from fanway_client.admin import AsyncFanwayAdmin
from fanway_client.fastapi import FanwayBackend
from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field


class NewNotification(BaseModel):
    """Who is notified, and about what."""

    user: Name
    text: Annotated[str, Field(min_length=1, max_length=500)]


class Read(BaseModel):
    """What a user has read."""

    id: int
    """All notifications up to this one are read."""


class Notifications:
    """The notifications of all users, in SQLite; methods block, so call them in a thread."""

    def __init__(self, database: str) -> None:
        self._lock = Lock()
        self._db = sqlite3.connect(database, check_same_thread=False)
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS notifications "
            "(id INTEGER PRIMARY KEY, user TEXT, text TEXT, read INTEGER DEFAULT 0)"
        )

    def add(self, user: str, text: str) -> int:
        """Store a notification; return its id."""
        with self._lock, self._db:
            cursor = self._db.execute("INSERT INTO notifications (user, text) VALUES (?, ?)", (user, text))
        return cursor.lastrowid or 0

    def mark_read(self, user: str, up_to: int) -> None:
        """Mark the notifications of *user* up to the id *up_to* as read."""
        with self._lock, self._db:
            self._db.execute("UPDATE notifications SET read = 1 WHERE user = ? AND id <= ?", (user, up_to))

    def of(self, user: str) -> list[dict[str, Any]]:
        """Return the newest notifications of *user*, the newest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, text, read FROM notifications WHERE user = ? ORDER BY id DESC LIMIT 50", (user,)
            ).fetchall()
        return [{"id": id, "text": text, "read": bool(read)} for id, text, read in rows]


def create_app() -> FastAPI:
    """Return the application; `uvicorn --factory` calls it."""
    settings, accounts = Settings(), Accounts()
    fanway = FanwayBackend(settings.push_url, settings.push_key, secret=settings.secret)
    notifications = Notifications(settings.database)
    app = new_app(settings, fanway, accounts)
    gateway = Annotated[AsyncFanwayAdmin, Depends(fanway.admin)]
    logged_in = Annotated[User, Depends(accounts.user)]

    @app.post("/notify")
    async def notify(_: logged_in, new: NewNotification, admin: gateway) -> dict[str, int]:
        """Notify a user. In your backend this is a function that other parts call, not a route."""
        user = User(new.user)
        id = await asyncio.to_thread(notifications.add, user.id, new.text)
        await send(admin, user, {"type": "new", "id": id, "text": new.text}, key=f"notification-{id}")
        return {"id": id}

    @app.get("/notifications")
    async def read(user: logged_in, admin: gateway) -> dict[str, Any]:
        # The position first: what comes later than it arrives through the gateway.
        position = (await admin.history(user.channel, limit=0))["position"]
        return {"position": position, "notifications": await asyncio.to_thread(notifications.of, user.id)}

    @app.post("/read", status_code=204)
    async def mark_read(user: logged_in, read: Read, admin: gateway) -> None:
        await asyncio.to_thread(notifications.mark_read, user.id, read.id)
        # The user's other tabs and devices show it as read, too.
        await send(admin, user, {"type": "read", "id": read.id}, key=f"read-{read.id}")

    serve_page(app, Path(__file__).parent)
    return app


async def send(admin: AsyncFanwayAdmin, user: User, data: dict[str, Any], *, key: str) -> None:
    """Publish *data* to the personal channel of *user*; raises FanwayError if the gateway did not take it."""
    (result,) = await admin.notify([user.id], data, key=key)
    if "error" in result:
        raise FanwayError(result["error"]["code"], result["error"]["message"])
