"""For backends: the push API, as `AsyncFanwayAdmin` and `FanwayAdmin`, and connection tokens."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx
from joserfc import jwt
from joserfc.jwk import OctKey

from fanway_client import _admin_calls
from fanway_client._admin_calls import Call, PublishFields, Result, Retries, result_of
from fanway_client.errors import FanwayError

__all__ = ["AsyncFanwayAdmin", "FanwayAdmin", "PublishFields", "Result", "mint_token"]

T = TypeVar("T")


class _Options:
    def __init__(self, url: str, key: str, *, timeout: float = 10.0, retries: int = 3) -> None:
        self._retries = retries
        self._settings: dict[str, Any] = {
            "base_url": url.rstrip("/"),
            "headers": {"authorization": f"Bearer {key}"},
            "timeout": timeout,
        }


class AsyncFanwayAdmin(_Options):
    """Calls the push API of a gateway; use it in `async with`, or call `aclose` at the end.

    Publishes are repeated under their key after 429, 503 and a lost connection, so that none happens twice.
    What is not carried out raises `FanwayError`.

    Args:
        url: The internal listener, such as `http://gateway:8001`.
        key: A push key.
        timeout: Seconds of one request.
        retries: How often a request is repeated.
    """

    def __init__(self, url: str, key: str, *, timeout: float = 10.0, retries: int = 3) -> None:
        super().__init__(url, key, timeout=timeout, retries=retries)
        self._client = httpx.AsyncClient(**self._settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the client cannot be used any more."""
        await self._client.aclose()

    async def publish(self, channel: str, data: Any, **fields: Unpack[PublishFields]) -> Result:
        """Publish *data*; return `channel`, `message`? (its id) and `replayed`."""
        return await self._call(_admin_calls.publish(channel, data, fields))

    async def broadcast(
        self, channels: Sequence[str], data: Any, **fields: Unpack[PublishFields]
    ) -> list[Result]:
        """Publish the same data to up to 1,000 channels; return one result per channel, in order."""
        return await self._call(_admin_calls.broadcast(channels, data, fields))

    async def notify(self, users: Sequence[str], data: Any, **fields: Unpack[PublishFields]) -> list[Result]:
        """Publish to the personal channels of up to 1,000 users; return one result per user, in order."""
        return await self._call(_admin_calls.notify(users, data, fields))

    async def batch(self, publishes: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Carry out up to 1,000 publishes (`channel`, `data`, …); return one result each, in order."""
        return await self._call(_admin_calls.batch(publishes))

    async def disconnect(
        self,
        user: str,
        *,
        code: int | None = None,
        reason: str | None = None,
        except_: Sequence[str] | None = None,
    ) -> int:
        """Close the connections of *user* but those in *except_*; return how many.

        Not repeated after a lost connection: the user may be back.
        """
        return await self._call(_admin_calls.disconnect(user, code=code, reason=reason, except_=except_))

    async def subscribe(self, user: str, channel: str) -> int:
        """Subscribe the connections of *user*; return how many."""
        return await self._call(_admin_calls.change_subscription(user, channel, "subscribe"))

    async def unsubscribe(self, user: str, channel: str) -> int:
        """Unsubscribe the connections of *user*; return how many."""
        return await self._call(_admin_calls.change_subscription(user, channel, "unsubscribe"))

    async def presence(
        self,
        channel: str,
        *,
        members: bool | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Result:
        """Return `connections`, `users` and a page of `members` of *channel*; a `cursor` begins the next."""
        return await self._call(_admin_calls.presence(channel, members=members, limit=limit, cursor=cursor))

    async def history(
        self,
        channel: str,
        *,
        limit: int | None = None,
        since: str | None = None,
        reverse: bool | None = None,
    ) -> Result:
        """Return `position` and `messages`: those after *since*, or the newest first, before *since*."""
        return await self._call(_admin_calls.history(channel, limit=limit, since=since, reverse=reverse))

    async def clear_history(self, channel: str) -> None:
        """Delete the messages kept of *channel*; the numbering continues."""
        await self._call(_admin_calls.clear_history(channel))

    async def channels(
        self, *, prefix: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> Result:
        """Return `channels` that have subscribers, by name; a `cursor` begins the next page."""
        return await self._call(_admin_calls.channels(prefix=prefix, limit=limit, cursor=cursor))

    async def channel(self, channel: str) -> Result:
        """Return `subscribers`, `users`?, `position`? and `history`, the number of messages kept."""
        return await self._call(_admin_calls.channel(channel))

    async def user(self, user: str) -> Result:
        """Return `connections` of *user* on every node: `connection`, `node`, `channels`, `since`."""
        return await self._call(_admin_calls.user(user))

    async def nodes(self) -> list[Result]:
        """Return the live nodes."""
        return await self._call(_admin_calls.nodes())

    async def stats(self) -> Result:
        """Return sums over the live nodes."""
        return await self._call(_admin_calls.stats())

    async def _call(self, call: Call[T]) -> T:
        retries = Retries(call, self._retries)
        while True:
            try:
                response = await self._client.request(
                    call.method, call.path, json=call.body, params=call.query
                )
                return result_of(call, response)
            except (httpx.TransportError, FanwayError) as error:
                delay = retries.delay(error)
            await asyncio.sleep(delay)


class FanwayAdmin(_Options):
    """As `AsyncFanwayAdmin`, for code without an event loop; use it in `with`, or call `close` at the end.

    Threads may share one, and so may the processes of a server that forks (gunicorn, Celery): each process
    has connections of its own.
    """

    def __init__(self, url: str, key: str, *, timeout: float = 10.0, retries: int = 3) -> None:
        super().__init__(url, key, timeout=timeout, retries=retries)
        self._process = os.getpid()
        self._http = self._new_client()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client cannot be used any more."""
        self._client.close()

    @property
    def _client(self) -> httpx.Client:
        if self._process != os.getpid():
            # Two processes must not write to one socket; the parent still uses what is open.
            self._process, self._http = os.getpid(), self._new_client()
        return self._http

    def _new_client(self) -> httpx.Client:
        client = httpx.Client(**self._settings)
        # For one that is kept for the life of the process, and closed by nobody.
        weakref.finalize(self, client.close)
        return client

    def publish(self, channel: str, data: Any, **fields: Unpack[PublishFields]) -> Result:
        """Publish *data*; return `channel`, `message`? (its id) and `replayed`."""
        return self._call(_admin_calls.publish(channel, data, fields))

    def broadcast(self, channels: Sequence[str], data: Any, **fields: Unpack[PublishFields]) -> list[Result]:
        """Publish the same data to up to 1,000 channels; return one result per channel, in order."""
        return self._call(_admin_calls.broadcast(channels, data, fields))

    def notify(self, users: Sequence[str], data: Any, **fields: Unpack[PublishFields]) -> list[Result]:
        """Publish to the personal channels of up to 1,000 users; return one result per user, in order."""
        return self._call(_admin_calls.notify(users, data, fields))

    def batch(self, publishes: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Carry out up to 1,000 publishes (`channel`, `data`, …); return one result each, in order."""
        return self._call(_admin_calls.batch(publishes))

    def disconnect(
        self,
        user: str,
        *,
        code: int | None = None,
        reason: str | None = None,
        except_: Sequence[str] | None = None,
    ) -> int:
        """Close the connections of *user* but those in *except_*; return how many.

        Not repeated after a lost connection: the user may be back.
        """
        return self._call(_admin_calls.disconnect(user, code=code, reason=reason, except_=except_))

    def subscribe(self, user: str, channel: str) -> int:
        """Subscribe the connections of *user*; return how many."""
        return self._call(_admin_calls.change_subscription(user, channel, "subscribe"))

    def unsubscribe(self, user: str, channel: str) -> int:
        """Unsubscribe the connections of *user*; return how many."""
        return self._call(_admin_calls.change_subscription(user, channel, "unsubscribe"))

    def presence(
        self,
        channel: str,
        *,
        members: bool | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Result:
        """Return `connections`, `users` and a page of `members` of *channel*; a `cursor` begins the next."""
        return self._call(_admin_calls.presence(channel, members=members, limit=limit, cursor=cursor))

    def history(
        self,
        channel: str,
        *,
        limit: int | None = None,
        since: str | None = None,
        reverse: bool | None = None,
    ) -> Result:
        """Return `position` and `messages`: those after *since*, or the newest first, before *since*."""
        return self._call(_admin_calls.history(channel, limit=limit, since=since, reverse=reverse))

    def clear_history(self, channel: str) -> None:
        """Delete the messages kept of *channel*; the numbering continues."""
        self._call(_admin_calls.clear_history(channel))

    def channels(
        self, *, prefix: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> Result:
        """Return `channels` that have subscribers, by name; a `cursor` begins the next page."""
        return self._call(_admin_calls.channels(prefix=prefix, limit=limit, cursor=cursor))

    def channel(self, channel: str) -> Result:
        """Return `subscribers`, `users`?, `position`? and `history`, the number of messages kept."""
        return self._call(_admin_calls.channel(channel))

    def user(self, user: str) -> Result:
        """Return `connections` of *user* on every node: `connection`, `node`, `channels`, `since`."""
        return self._call(_admin_calls.user(user))

    def nodes(self) -> list[Result]:
        """Return the live nodes."""
        return self._call(_admin_calls.nodes())

    def stats(self) -> Result:
        """Return sums over the live nodes."""
        return self._call(_admin_calls.stats())

    def _call(self, call: Call[T]) -> T:
        retries = Retries(call, self._retries)
        while True:
            try:
                response = self._client.request(call.method, call.path, json=call.body, params=call.query)
                return result_of(call, response)
            except (httpx.TransportError, FanwayError) as error:
                delay = retries.delay(error)
            time.sleep(delay)


def mint_token(
    secret: str,
    user: str,
    *,
    ttl: float = 3600.0,
    info: Any = None,
    channels: Sequence[str] | None = None,
    channel: str | None = None,
    claims: Mapping[str, Any] | None = None,
    now: float | None = None,
) -> str:
    """Return a token (JWT, HS256) that `auth.secret` of the gateway verifies.

    Args:
        secret: The gateway's `auth.secret`.
        user: The user; becomes `sub`.
        ttl: Seconds until it expires, at most a day.
        info: Shown to others in presence.
        channels: The gateway subscribes the user to these.
        channel: Makes it a channel token of this channel.
        claims: Others, such as `aud` and `iss`, where the gateway requires them.
        now: Seconds since 1970; the clock's where it is None.
    """
    issued = int(time.time() if now is None else now)
    given = {
        **(claims or {}),
        "sub": user,
        "iat": issued,
        "exp": int(issued + ttl),
        "info": info,
        "channels": channels,
        "channel": channel,
    }
    present = {name: value for name, value in given.items() if value is not None}
    return jwt.encode({"alg": "HS256"}, present, OctKey.import_key(secret))
