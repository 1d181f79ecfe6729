"""What the backends of the examples have in common: their configuration, and who is logged in."""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fanway_client.fastapi import FanwayBackend, TokenUser
from fastapi import APIRouter, FastAPI, Header, HTTPException
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field


@dataclass(frozen=True)
class Settings:
    """From the environment; `run.py` sets it."""

    gateway: str = field(default_factory=lambda: os.environ["GATEWAY_URL"])
    """Where clients find the gateway."""
    push_url: str = field(default_factory=lambda: os.environ["GATEWAY_PUSH_URL"])
    push_key: str = field(default_factory=lambda: os.environ["GATEWAY_PUSH_KEY"])
    secret: str = field(default_factory=lambda: os.environ["GATEWAY_SECRET"])
    database: str = field(default_factory=lambda: os.environ.get("DATABASE", ":memory:"))
    token_seconds: float = field(default_factory=lambda: float(os.environ.get("TOKEN_SECONDS", "300")))


class Login(BaseModel):
    """Who wants to log in."""

    name: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^\w[\w -]*$")]


class Accounts:
    """Sessions: a name is enough to log in here. Yours needs a password, and is kept elsewhere."""

    def __init__(self) -> None:
        self._users: dict[str, str] = {}

    def user(self, authorization: Annotated[str, Header()] = "") -> str:
        """Return who is logged in; a dependency."""
        user = self._users.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise HTTPException(401, "log in first")
        return user

    def token_user(self, authorization: Annotated[str, Header()] = "") -> TokenUser:
        """Return the user that a token is for; a dependency."""
        user = self.user(authorization)
        return TokenUser(user.lower(), info={"name": user})

    def router(self) -> APIRouter:
        """Return the route that logs in."""
        router = APIRouter()

        @router.post("/login")
        def log_in(login: Login) -> dict[str, str]:
            session = secrets.token_urlsafe()
            self._users[session] = login.name
            return {"session": session}

        return router


def new_app(settings: Settings, fanway: FanwayBackend, accounts: Accounts) -> FastAPI:
    """Return an application that logs in, gives tokens, and says where the gateway is."""
    app = FastAPI(lifespan=fanway.lifespan)
    app.include_router(accounts.router())
    app.include_router(fanway.token_router(accounts.token_user, ttl=settings.token_seconds))

    @app.get("/config")
    def config() -> dict[str, str]:
        return {"gateway": settings.gateway}

    return app


def serve_page(app: FastAPI, example: Path) -> None:
    """Serve the built page of *example* for every path that has no route."""
    app.mount("/", StaticFiles(directory=example / "dist", html=True))
