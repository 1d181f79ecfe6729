"""What the backends of the examples have in common: their configuration, and who is logged in."""

import os
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fanway_client import FanwayError
from fanway_client.fastapi import FanwayBackend, TokenUser
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


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


Name = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^\w[\w -]*$")]


@dataclass(frozen=True)
class User:
    """Who is logged in."""

    name: str

    @property
    def id(self) -> str:
        """The same for `Ann` and `ann`; in your backend probably a number."""
        return self.name.lower()

    @property
    def channel(self) -> str:
        """The personal channel: percent-encoded where necessary (docs/protocol.md#tokens)."""
        return "@" + quote(self.id, safe=":@")


class Login(BaseModel):
    """Who wants to log in."""

    name: Name


class Accounts:
    """Sessions: a name is enough to log in here. Yours needs a password, and is kept elsewhere."""

    def __init__(self) -> None:
        self._users: dict[str, User] = {}

    def user(self, authorization: Annotated[str, Header()] = "") -> User:
        """Return who is logged in; a dependency."""
        user = self._users.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise HTTPException(401, "log in first")
        return user

    def token_user(self, authorization: Annotated[str, Header()] = "") -> TokenUser:
        """Return the user that a token is for; a dependency."""
        user = self.user(authorization)
        return TokenUser(user.id, info={"name": user.name})

    def router(self, gateway: str) -> APIRouter:
        """Return the routes that log in and out, and say who is logged in and where the *gateway* is."""
        router = APIRouter()

        @router.post("/login")
        def log_in(login: Login) -> dict[str, str]:
            session = secrets.token_urlsafe()
            self._users[session] = User(login.name)
            return {"session": session}

        @router.post("/logout", status_code=204, dependencies=[Depends(self.user)])
        def log_out(authorization: Annotated[str, Header()] = "") -> None:
            self._users.pop(authorization.removeprefix("Bearer "), None)

        @router.get("/me")
        def me(user: Annotated[User, Depends(self.user)]) -> dict[str, str]:
            return {"id": user.id, "name": user.name, "channel": user.channel, "gateway": gateway}

        return router


def new_app(
    settings: Settings, fanway: FanwayBackend, accounts: Accounts, lifespan: Lifespan | None = None
) -> FastAPI:
    """Return an application that logs in and gives tokens; *lifespan* stands in for that of *fanway*."""
    app = FastAPI(lifespan=lifespan or fanway.lifespan)
    app.include_router(accounts.router(settings.gateway))
    app.include_router(fanway.token_router(accounts.token_user, ttl=settings.token_seconds))

    @app.exception_handler(FanwayError)
    def gateway_failed(_: Request, error: FanwayError) -> JSONResponse:
        # The client has repeated the call already. The page may send the same request again later.
        return JSONResponse({"detail": f"the gateway: {error.code}"}, 503 if error.retryable else 500)

    return app


def serve_page(app: FastAPI, example: Path) -> None:
    """Serve the built page of *example* for every path that has no route."""
    app.mount("/", StaticFiles(directory=example / "dist", html=True, check_dir=False))
