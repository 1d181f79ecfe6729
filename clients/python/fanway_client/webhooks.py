"""For backends: whether a request comes from the gateway, by its signature (Standard Webhooks).

The scheme is that of <https://www.standardwebhooks.com>: HMAC-SHA256 over `<id>.<timestamp>.<body>`. The
package `standardwebhooks` verifies it, too. It is not used here: it takes one secret and a fixed tolerance,
raises `ValueError` for some headers that a stranger may send, and its releases before 1.1 install six other
packages. What is needed is an HMAC of the standard library. The tests compare both
(docs/vectors/webhooks.json).
"""

from __future__ import annotations

import binascii
import hmac
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import orjson

TOLERANCE_SECONDS = 300.0
"""How far the time stamp of a webhook may be from this machine's time: each attempt has a new one."""

_ID, _TIMESTAMP, _SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
_PREFIX = "whsec_"
_SCHEME = "v1"
_REMEDY = "take that of the gateway's configuration, which is whsec_ and base64"
_UNIX_SECONDS = re.compile(r"[0-9]{1,12}")

WebhookErrorCode = Literal[
    "missing_header", "invalid_timestamp", "too_old", "too_new", "no_matching_signature", "invalid_body"
]

_STATUS: Mapping[WebhookErrorCode, int] = {
    "missing_header": 400,
    "invalid_timestamp": 400,
    "too_old": 401,
    "too_new": 401,
    "no_matching_signature": 401,
    "invalid_body": 400,
}


class Headers(Protocol):
    """The headers of a request: a `dict`, or what Starlette, Django, Flask and aiohttp have."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Return names, in any case, and values."""
        ...


class WebhookError(Exception):
    """A request is not a webhook of the gateway, or not one that can be read.

    Attributes:
        code: For programs: `missing_header`, `invalid_timestamp`, `too_old`, `too_new`,
            `no_matching_signature` or `invalid_body`, where the signature matches but the body is no JSON.
        status: The HTTP status to answer with: 400 for a malformed request, 401 for one that is not
            authentic.
        message: For people; the text may change.
    """

    def __init__(self, code: WebhookErrorCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = _STATUS[code]


def verify_webhook(
    secrets: str | Sequence[str],
    headers: Headers,
    body: bytes | str,
    *,
    tolerance: float = TOLERANCE_SECONDS,
    now: float | None = None,
) -> Any:
    """Return the payload of a webhook, which is *body* as JSON, after its signature was verified.

    Verify before anything else uses the request. The same `webhook-id` may arrive more than once: it is a
    repetition.

    Args:
        secrets: The secret that the gateway signs with, `whsec_…`; several while one replaces the other.
        headers: Those of the request, in any case.
        body: The bytes of the request as they arrived: JSON that was parsed and written again has others.
        tolerance: Seconds that the time stamp may be in the past or in the future.
        now: Seconds since 1970; the clock's where it is None.

    Raises:
        WebhookError: The request is to be answered with `WebhookError.status`.
        ValueError: There is no secret, or one that is not base64: the fault is in the configuration.
    """
    keys = _keys(secrets)
    content = body.encode() if isinstance(body, str) else body
    given = {name.lower(): value for name, value in headers.items()}
    for name in (_ID, _TIMESTAMP, _SIGNATURE):
        if not given.get(name):
            raise WebhookError("missing_header", f"the request has no header {name}")
    _require_recent(given[_TIMESTAMP], time.time() if now is None else now, tolerance)
    expected = [_signature(key, given[_ID], given[_TIMESTAMP], content) for key in keys]
    if not _any_equal(expected, _bytes(given[_SIGNATURE]).split(b" ")):
        raise WebhookError("no_matching_signature", f"no signature in {_SIGNATURE} is by a known secret")
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise WebhookError("invalid_body", f"the body is no JSON: {error}") from None


def sign_webhook(
    secret: str, body: bytes | str, *, id: str, timestamp: float | None = None
) -> dict[str, str]:
    """Return the headers of a webhook with *body*, signed as the gateway does: for tests of an application.

    Args:
        secret: `whsec_…`, which `verify_webhook` gets, too.
        body: What is sent.
        id: The `webhook-id`.
        timestamp: Seconds since 1970; the clock's where it is None.
    """
    (key,) = _keys(secret)
    sent = str(int(time.time() if timestamp is None else timestamp))
    content = body.encode() if isinstance(body, str) else body
    return {_ID: id, _TIMESTAMP: sent, _SIGNATURE: _signature(key, id, sent, content).decode()}


def _keys(secrets: str | Sequence[str]) -> list[bytes]:
    keys = [_key(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    if not keys:
        raise ValueError(
            "secrets: expected at least one, whsec_ and base64; take that of the gateway's configuration"
        )
    return keys


def _key(secret: str) -> bytes:
    encoded = secret.removeprefix(_PREFIX)
    try:
        key = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError(f"a secret of webhooks is not whsec_ and base64; {_REMEDY}")
    return key


def _require_recent(timestamp: str, now: float, tolerance: float) -> None:
    if _UNIX_SECONDS.fullmatch(timestamp) is None:
        raise WebhookError("invalid_timestamp", f"{_TIMESTAMP}: expected seconds since 1970")
    age = now - int(timestamp)
    if age > tolerance:
        raise WebhookError("too_old", f"it was signed {age:.0f} s ago, more than {tolerance:g} s")
    if -age > tolerance:
        raise WebhookError("too_new", f"it was signed {-age:.0f} s in the future; compare the clocks")


def _signature(key: bytes, id: str, timestamp: str, body: bytes) -> bytes:
    mac = hmac.digest(key, b".".join((_bytes(id), _bytes(timestamp), body)), "sha256")
    return f"{_SCHEME},".encode() + b64encode(mac)


def _any_equal(expected: Sequence[bytes], given: Sequence[bytes]) -> bool:
    """Return whether one of *given* is expected, in a time that does not depend on which bytes differ."""
    return any(hmac.compare_digest(one, other) for one in expected for other in given)


def _bytes(header: str) -> bytes:
    # Some servers keep bytes that are no UTF-8 in this way.
    return header.encode("utf-8", "surrogateescape")
