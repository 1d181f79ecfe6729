"""For FastAPI applications: the push API for the life of the application, tokens, and webhooks."""

# FastAPI reads the annotations of nested functions when they are defined, so they are not postponed here.

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse

from fanway_client.admin import AsyncFanwayAdmin, mint_token
from fanway_client.webhooks import WebhookError, verify_webhook

WEBHOOK_BYTES = 16 * 1024 * 1024
"""The largest body of a webhook that is read; the gateway sends at most 100 events at once."""


@dataclass(frozen=True, slots=True)
class TokenUser:
    """The user that a token is for.

    Attributes:
        user: Becomes `sub`.
        info: Shown to others in presence.
        channels: The gateway subscribes the user to these.
    """

    user: str
    info: Any = None
    channels: Sequence[str] | None = None


class FanwayBackend:
    """What an application needs of its gateway; make one for each application.

    ```python
    fanway = FanwayBackend("http://gateway:8001", push_key, secret=secret, webhook_secrets="whsec_…")
    app = FastAPI(lifespan=fanway.lifespan)
    app.include_router(fanway.token_router(current_user))
    ```

    Args:
        push_url: The internal listener of the gateway.
        push_key: A push key.
        secret: The gateway's `auth.secret`, where `token_router` is used.
        webhook_secrets: What the gateway signs with, where `webhook` is used.
        timeout: Seconds of one request to the push API.
        retries: How often such a request is repeated.
    """

    def __init__(
        self,
        push_url: str,
        push_key: str,
        *,
        secret: str = "",
        webhook_secrets: str | Sequence[str] = (),
        timeout: float = 10.0,
        retries: int = 3,
    ) -> None:
        self._new_admin = partial(AsyncFanwayAdmin, push_url, push_key, timeout=timeout, retries=retries)
        self._secret = secret
        self._webhook_secrets = webhook_secrets
        self._admin: AsyncFanwayAdmin | None = None

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Keep connections to the push API while the application runs.

        Pass it to `FastAPI(lifespan=…)`, or use it in your own: `async with fanway.lifespan(app): yield`.
        """
        async with self._new_admin() as admin:
            self._admin = admin
            try:
                yield
            finally:
                self._admin = None

    def admin(self) -> AsyncFanwayAdmin:
        """Return the push API; a dependency: `Annotated[AsyncFanwayAdmin, Depends(fanway.admin)]`.

        Raises:
            RuntimeError: The application is not running, or without the lifespan.
        """
        if self._admin is None:
            raise RuntimeError(
                "the push API is open while the application runs: pass lifespan=fanway.lifespan to FastAPI, "
                "or use it in the lifespan that you have"
            )
        return self._admin

    def token_router(
        self, user: Callable[..., Any], *, path: str = "/fanway/token", ttl: float = 3600.0
    ) -> APIRouter:
        """Return a router with one route: `GET` *path* answers a connection token as text.

        Args:
            user: Your dependency for who is logged in: returns the user's name or a `TokenUser`, or raises
                `HTTPException(401)`, after which a client's `get_token` should raise `UnauthorizedError`.
            path: Where the route is.
            ttl: Seconds until a token expires; clients fetch another one before that.

        Raises:
            ValueError: There is no secret.
        """
        if not self._secret:
            raise ValueError("secret is missing, which signs tokens: pass the gateway's auth.secret")
        router = APIRouter()

        @router.get(path, response_class=PlainTextResponse)
        async def fanway_token(who: Annotated[str | TokenUser, Depends(user)]) -> PlainTextResponse:
            """Return a token with which the user connects to the gateway."""
            of = who if isinstance(who, TokenUser) else TokenUser(who)
            token = mint_token(self._secret, of.user, ttl=ttl, info=of.info, channels=of.channels)
            return PlainTextResponse(token, headers={"cache-control": "no-store"})

        return router

    async def webhook(self, request: Request) -> Any:
        """Return the payload of a webhook after its signature was verified; a dependency of your route.

        The answer is otherwise 401 for a request that is not authentic, 400 for a malformed one, and 413 for
        more than `WEBHOOK_BYTES`. The route may have no parameter that reads the body.
        """
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > WEBHOOK_BYTES:
                raise HTTPException(413, f"at most {WEBHOOK_BYTES} bytes are read")
        try:
            return verify_webhook(self._webhook_secrets, request.headers, bytes(body))
        except WebhookError as error:
            raise HTTPException(error.status, str(error)) from None
