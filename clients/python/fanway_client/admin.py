"""For backends: the push API, as `AsyncFanwayAdmin` and `FanwayAdmin`, and connection tokens."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from joserfc import jwt
from joserfc.jwk import OctKey

from fanway_client._protocol.client import DEFAULT_BACKOFF
from fanway_client._protocol.errors import Backoff
from fanway_client.errors import CONNECTION_LOST, FanwayError

Result = dict[str, Any]
"""One result of several: a receipt (`channel`, `message`?, `replayed`), or `{"error": {"code",
"message"}}`."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the push API, and whether it may be repeated when its answer is lost."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, Any] | None = None
    repeatable: bool = True


def _publish(channel: str, data: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"channel": channel, "data": data, "key": uuid.uuid4().hex, **_given(fields)}


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


class _Calls:
    """What each method of the two clients sends."""

    @staticmethod
    def publish(
        channel: str,
        data: Any,
        *,
        key: str | None = None,
        tags: Mapping[str, str] | None = None,
        exclude: Sequence[str] | None = None,
        history: bool | None = None,
    ) -> _Call:
        fields = {"key": key, "tags": tags, "exclude": exclude, "history": history}
        return _Call("POST", "/v1/publish", _publish(channel, data, fields))

    @staticmethod
    def broadcast(
        channels: Sequence[str], data: Any, *, key: str | None, tags: Mapping[str, str] | None
    ) -> _Call:
        fields = _given({"key": key, "tags": tags})
        body = {"channels": list(channels), "data": data, "key": uuid.uuid4().hex, **fields}
        return _Call("POST", "/v1/broadcast", body)

    @staticmethod
    def notify(users: Sequence[str], data: Any, *, key: str | None) -> _Call:
        return _Call(
            "POST", "/v1/notify", {"users": list(users), "data": data, "key": key or uuid.uuid4().hex}
        )

    @staticmethod
    def batch(publishes: Sequence[Mapping[str, Any]]) -> _Call:
        commands = [{"publish": {"key": uuid.uuid4().hex, **publish}} for publish in publishes]
        return _Call("POST", "/v1/batch", {"commands": commands})

    @staticmethod
    def disconnect(
        user: str, *, code: int | None, reason: str | None, except_: Sequence[str] | None
    ) -> _Call:
        body = _given({"code": code, "reason": reason, "except": except_})
        return _Call("POST", f"/v1/users/{quote(user, safe='')}/disconnect", body, repeatable=False)

    @staticmethod
    def subscription(user: str, channel: str, action: str) -> _Call:
        return _Call("POST", f"/v1/users/{quote(user, safe='')}/{action}", {"channel": channel})

    @staticmethod
    def presence(channel: str) -> _Call:
        return _Call("GET", f"/v1/channels/{quote(channel, safe='')}/presence")

    @staticmethod
    def history(channel: str, *, limit: int | None, since: str | None, reverse: bool) -> _Call:
        query = _given({"limit": limit, "since": since, "reverse": "true" if reverse else None})
        return _Call("GET", f"/v1/channels/{quote(channel, safe='')}/history", query=query)


class _Retries:
    """Decides whether a call is repeated, and after how long."""

    def __init__(self, call: _Call, retries: int) -> None:
        self._call = call
        self._left = retries
        self._attempt = 0

    def delay(self, error: FanwayError) -> float:
        """Return the seconds to wait before the call is repeated; raise *error* if it is not."""
        lost = error.code == CONNECTION_LOST
        if not error.retryable or self._left == 0 or (lost and not self._call.repeatable):
            raise error
        jitter = DEFAULT_BACKOFF.bound(Backoff.JITTER, self._attempt) * random.random()
        self._left -= 1
        self._attempt += 1
        return max(error.retry_after or 0.0, jitter)


def _answer(call: _Call, response: httpx.Response) -> Any:
    """Return the body of a success; raise what the response says."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    if response.is_success:
        return body
    error = body.get("error", {}) if isinstance(body, dict) else {}
    fallback = "unavailable" if response.status_code == 429 or response.is_server_error else "bad_request"
    retry_after = error.get("retry_after_ms")
    raise FanwayError(
        error.get("code", fallback),
        error.get("message", f"{call.method} {call.path}: HTTP {response.status_code}"),
        retry_after=None if retry_after is None else retry_after / 1000,
    )


class _Options:
    def __init__(self, url: str, key: str, *, timeout: float = 10.0, retries: int = 3) -> None:
        self._retries = retries
        self._settings: dict[str, Any] = {
            "base_url": url.rstrip("/"),
            "headers": {"authorization": f"Bearer {key}"},
            "timeout": timeout,
        }


class AsyncFanwayAdmin(_Options):
    """Calls the push API of a gateway; use it in `async with`.

    Publishes are repeated under their key after 429, 503 and a lost connection, so that none happens twice.

    Args:
        url: The internal listener, such as `http://gateway:8001`.
        key: A push key.
        timeout: Seconds of one request.
        retries: How often a request is repeated.
    """

    async def __aenter__(self) -> Self:
        self._client = await httpx.AsyncClient(**self._settings).__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def publish(self, channel: str, data: Any, **fields: Any) -> Result:
        """Publish *data*; return `channel`, `message`? and `replayed`.

        Fields: `key`, `tags`, `exclude`, `history`.
        """
        return dict(await self._call(_Calls.publish(channel, data, **fields)))

    async def broadcast(
        self,
        channels: Sequence[str],
        data: Any,
        *,
        key: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> list[Result]:
        """Publish the same data to up to 1,000 channels; return one result per channel, in order."""
        return list((await self._call(_Calls.broadcast(channels, data, key=key, tags=tags)))["results"])

    async def notify(self, users: Sequence[str], data: Any, *, key: str | None = None) -> list[Result]:
        """Publish to the personal channels of up to 1,000 users; return one result per user, in order."""
        return list((await self._call(_Calls.notify(users, data, key=key)))["results"])

    async def batch(self, publishes: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Carry out up to 1,000 publishes (`channel`, `data`, …); return one result each, in order."""
        return list((await self._call(_Calls.batch(publishes)))["results"])

    async def disconnect(
        self,
        user: str,
        *,
        code: int | None = None,
        reason: str | None = None,
        except_: Sequence[str] | None = None,
    ) -> int:
        """Close the connections of *user* but those in *except_*; return how many."""
        call = _Calls.disconnect(user, code=code, reason=reason, except_=except_)
        return int((await self._call(call))["connections"])

    async def subscribe(self, user: str, channel: str) -> int:
        """Subscribe the connections of *user*; return how many."""
        return int((await self._call(_Calls.subscription(user, channel, "subscribe")))["connections"])

    async def unsubscribe(self, user: str, channel: str) -> int:
        """Unsubscribe the connections of *user*; return how many."""
        return int((await self._call(_Calls.subscription(user, channel, "unsubscribe")))["connections"])

    async def presence(self, channel: str) -> Result:
        """Return `connections`, `users` and `members` of *channel*."""
        return dict(await self._call(_Calls.presence(channel)))

    async def history(
        self, channel: str, *, limit: int | None = None, since: str | None = None, reverse: bool = False
    ) -> Result:
        """Return `position` and `messages` of *channel*."""
        return dict(await self._call(_Calls.history(channel, limit=limit, since=since, reverse=reverse)))

    async def _call(self, call: _Call) -> Any:
        retries = _Retries(call, self._retries)
        while True:
            try:
                return _answer(
                    call,
                    await self._client.request(call.method, call.path, json=call.body, params=call.query),
                )
            except httpx.TransportError as error:
                delay = retries.delay(FanwayError(CONNECTION_LOST, f"{call.method} {call.path}: {error!r}"))
            except FanwayError as error:
                delay = retries.delay(error)
            await asyncio.sleep(delay)


class FanwayAdmin(_Options):
    """As `AsyncFanwayAdmin`, for code without an event loop; use it in `with`. Threads may share one."""

    def __enter__(self) -> Self:
        self._client = httpx.Client(**self._settings).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def publish(self, channel: str, data: Any, **fields: Any) -> Result:
        """Publish *data*; return `channel`, `message`? and `replayed`.

        Fields: `key`, `tags`, `exclude`, `history`.
        """
        return dict(self._call(_Calls.publish(channel, data, **fields)))

    def broadcast(
        self,
        channels: Sequence[str],
        data: Any,
        *,
        key: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> list[Result]:
        """Publish the same data to up to 1,000 channels; return one result per channel, in order."""
        return list(self._call(_Calls.broadcast(channels, data, key=key, tags=tags))["results"])

    def notify(self, users: Sequence[str], data: Any, *, key: str | None = None) -> list[Result]:
        """Publish to the personal channels of up to 1,000 users; return one result per user, in order."""
        return list(self._call(_Calls.notify(users, data, key=key))["results"])

    def batch(self, publishes: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Carry out up to 1,000 publishes (`channel`, `data`, …); return one result each, in order."""
        return list(self._call(_Calls.batch(publishes))["results"])

    def disconnect(
        self,
        user: str,
        *,
        code: int | None = None,
        reason: str | None = None,
        except_: Sequence[str] | None = None,
    ) -> int:
        """Close the connections of *user* but those in *except_*; return how many."""
        return int(
            self._call(_Calls.disconnect(user, code=code, reason=reason, except_=except_))["connections"]
        )

    def subscribe(self, user: str, channel: str) -> int:
        """Subscribe the connections of *user*; return how many."""
        return int(self._call(_Calls.subscription(user, channel, "subscribe"))["connections"])

    def unsubscribe(self, user: str, channel: str) -> int:
        """Unsubscribe the connections of *user*; return how many."""
        return int(self._call(_Calls.subscription(user, channel, "unsubscribe"))["connections"])

    def presence(self, channel: str) -> Result:
        """Return `connections`, `users` and `members` of *channel*."""
        return dict(self._call(_Calls.presence(channel)))

    def history(
        self, channel: str, *, limit: int | None = None, since: str | None = None, reverse: bool = False
    ) -> Result:
        """Return `position` and `messages` of *channel*."""
        return dict(self._call(_Calls.history(channel, limit=limit, since=since, reverse=reverse)))

    def _call(self, call: _Call) -> Any:
        retries = _Retries(call, self._retries)
        while True:
            try:
                return _answer(
                    call, self._client.request(call.method, call.path, json=call.body, params=call.query)
                )
            except httpx.TransportError as error:
                delay = retries.delay(FanwayError(CONNECTION_LOST, f"{call.method} {call.path}: {error!r}"))
            except FanwayError as error:
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
        now: Seconds since 1970; the clock's where it is None.
    """
    issued = int(time.time() if now is None else now)
    claims = {"sub": user, "iat": issued, "exp": int(issued + ttl)}
    claims |= _given({"info": info, "channels": channels, "channel": channel})
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(secret))
