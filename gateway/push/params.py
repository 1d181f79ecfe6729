"""Names in paths, queries and lists: channels, users, cursors; 422 for what is none."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, urlsafe_b64encode
from urllib.parse import unquote_to_bytes

from gateway.push.errors import RequestRejected
from gateway.push.requests import USER_SIZE
from protocol import channels, fields, limits
from protocol.errors import ErrorCode
from protocol.position import MessageId

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def channel_name(name: str) -> str:
    """Return *name*, which must be a channel's."""
    if not channels.valid(name):
        raise _unfit(
            "channel", f"a name of 1 to {limits.CHANNEL_NAME} characters A-Z a-z 0-9 _ . : @ ~ -", name
        )
    return name


def personal_channel(user: str) -> str:
    """Return the personal channel of *user*, whose name must fit one: nobody follows any other."""
    name = channels.personal(user_name(user))
    if not channels.valid(name):
        raise _unfit("user", "one with a personal channel: at most 127 of A-Z a-z 0-9 _ . : @ ~ -", user)
    return name


def user_name(name: str) -> str:
    """Return *name*, which must be a user's, as in a token's `sub`."""
    if not 0 < len(name) <= USER_SIZE or _CONTROL.search(name):
        raise _unfit("user", f"1 to {USER_SIZE} characters without control characters", name)
    return name


def channel_in(path: str) -> str:
    """Return the channel that a segment of a path names."""
    return channel_name(_decoded("channel", path))


def user_in(path: str) -> str:
    """Return the user that a segment of a path names."""
    return user_name(_decoded("user", path))


def position_in(since: str | None) -> MessageId | None:
    """Return the message id that a query names, if it does."""
    try:
        return None if since is None else MessageId.parse(since)
    except ValueError as error:
        raise RequestRejected(422, ErrorCode.BAD_REQUEST, f"since: {error}") from None


def cursor_behind(name: str) -> str:
    """Return what a client hands back to go on behind *name*; opaque, so that its meaning may change."""
    return urlsafe_b64encode(name.encode()).rstrip(b"=").decode()


def name_before(cursor: str | None) -> str:
    """Return the name that `cursor_behind` made *cursor* of; without one, what is before every name."""
    if not cursor:
        return ""
    try:
        return b64decode(cursor + "=" * (-len(cursor) % 4), altchars="-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _unfit("cursor", "a cursor as an answer gave it out", cursor) from None


def _decoded(what: str, path: str) -> str:
    try:
        return unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise _unfit(what, "percent-encoded UTF-8", path) from None


def _unfit(what: str, expected: str, value: str) -> RequestRejected:
    return RequestRejected(422, ErrorCode.BAD_REQUEST, f"{what}: {fields.expected(expected, value).message}")
