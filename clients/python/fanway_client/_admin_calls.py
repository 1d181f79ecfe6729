"""What each method of the admin clients sends to the push API, and what it returns: no I/O."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from fanway_client._protocol.client import DEFAULT_BACKOFF
from fanway_client._protocol.errors import Backoff
from fanway_client.errors import CONNECTION_LOST, FanwayError

Result = dict[str, Any]
"""One result of several: a receipt (`channel`, `message`?, `replayed`), or `{"error": {"code",
"message"}}`."""

T = TypeVar("T")


class PublishFields(TypedDict, total=False):
    """What every publish may have beside its data.

    Attributes:
        key: The same key in the same channel publishes once; one is made up where it is absent.
        tags: Strings that travel with the message.
        exclude: Connections that do not get it.
        history: False: not stored.
        acknowledge: `replicated`: the answer waits until a replica of Redis has it, 100 ms at most.
    """

    key: str | None
    tags: Mapping[str, str] | None
    exclude: Sequence[str] | None
    history: bool | None
    acknowledge: Literal["stored", "replicated"] | None


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call of the push API, and whether it may be repeated when its answer is lost."""

    method: str
    path: str
    result: Callable[[Any], T]
    """What the caller gets, from the body of the answer."""
    body: Mapping[str, Any] | None = None
    query: Mapping[str, Any] | None = None
    repeatable: bool = True


def publish(channel: str, data: Any, fields: PublishFields) -> Call[Result]:
    return Call("POST", "/v1/publish", dict, _publish({"channel": channel, "data": data}, fields))


def broadcast(channels: Sequence[str], data: Any, fields: PublishFields) -> Call[list[Result]]:
    body = _publish({"channels": list(channels), "data": data}, fields)
    return Call("POST", "/v1/broadcast", itemgetter("results"), body)


def notify(users: Sequence[str], data: Any, fields: PublishFields) -> Call[list[Result]]:
    return Call(
        "POST", "/v1/notify", itemgetter("results"), _publish({"users": list(users), "data": data}, fields)
    )


def batch(publishes: Sequence[Mapping[str, Any]]) -> Call[list[Result]]:
    commands = [{"publish": _publish(publish, {})} for publish in publishes]
    return Call("POST", "/v1/batch", itemgetter("results"), {"commands": commands})


def disconnect(
    user: str, *, code: int | None, reason: str | None, except_: Sequence[str] | None
) -> Call[int]:
    body = _given({"code": code, "reason": reason, "except": except_})
    # The user may be back by the time of a repetition.
    return Call("POST", f"{_user(user)}/disconnect", _connections, body, repeatable=False)


def change_subscription(user: str, channel: str, action: Literal["subscribe", "unsubscribe"]) -> Call[int]:
    return Call("POST", f"{_user(user)}/{action}", _connections, {"channel": channel})


def presence(channel: str, *, members: bool | None, limit: int | None, cursor: str | None) -> Call[Result]:
    query = _given({"members": members, "limit": limit, "cursor": cursor})
    return Call("GET", f"{_channel(channel)}/presence", dict, query=query)


def history(channel: str, *, limit: int | None, since: str | None, reverse: bool | None) -> Call[Result]:
    query = _given({"limit": limit, "since": since, "reverse": reverse})
    return Call("GET", f"{_channel(channel)}/history", dict, query=query)


def clear_history(channel: str) -> Call[None]:
    return Call("DELETE", f"{_channel(channel)}/history", lambda _: None)


def channels(*, prefix: str | None, limit: int | None, cursor: str | None) -> Call[Result]:
    query = _given({"prefix": prefix, "limit": limit, "cursor": cursor})
    return Call("GET", "/v1/channels", dict, query=query)


def channel(channel: str) -> Call[Result]:
    return Call("GET", _channel(channel), dict)


def user(user: str) -> Call[Result]:
    return Call("GET", _user(user), dict)


def nodes() -> Call[list[Result]]:
    return Call("GET", "/v1/nodes", itemgetter("nodes"))


def stats() -> Call[Result]:
    return Call("GET", "/v1/stats", dict)


class Retries:
    """Decides whether a call is repeated, and after how long."""

    def __init__(self, call: Call[Any], retries: int) -> None:
        self._call = call
        self._left = retries
        self._attempt = 0

    def delay(self, error: FanwayError | httpx.TransportError) -> float:
        """Return the seconds to wait before the call is repeated; raise *error* if it is not."""
        if isinstance(error, httpx.TransportError):
            text = f"{self._call.method} {self._call.path}: {error!r}"
            error = FanwayError(CONNECTION_LOST, text)
        lost = error.code == CONNECTION_LOST
        if not error.retryable or self._left == 0 or (lost and not self._call.repeatable):
            raise error
        jitter = DEFAULT_BACKOFF.bound(Backoff.JITTER, self._attempt) * random.random()
        self._left -= 1
        self._attempt += 1
        return max(error.retry_after or 0.0, jitter)


def result_of(call: Call[T], response: httpx.Response) -> T:
    """Return the result of a success; raise what the response says."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    if response.is_success:
        return call.result(body)
    error = body.get("error", {}) if isinstance(body, dict) else {}
    fallback = "unavailable" if response.status_code == 429 or response.is_server_error else "bad_request"
    retry_after = error.get("retry_after_ms")
    raise FanwayError(
        error.get("code", fallback),
        error.get("message", f"{call.method} {call.path}: HTTP {response.status_code}"),
        retry_after=None if retry_after is None else retry_after / 1000,
    )


def _publish(message: Mapping[str, Any], fields: PublishFields) -> dict[str, Any]:
    body = {**message, **_given(fields)}
    # A publish that is repeated without a key would happen twice.
    return body if body.get("key") is not None else {**body, "key": uuid.uuid4().hex}


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _connections(body: Any) -> int:
    return int(body["connections"])


def _channel(channel: str) -> str:
    return f"/v1/channels/{quote(channel, safe='')}"


def _user(user: str) -> str:
    return f"/v1/users/{quote(user, safe='')}"
