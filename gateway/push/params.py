"""Names in paths, queries and lists: channels, users, cursors; 422 for a name that is not valid."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, urlsafe_b64encode
from urllib.parse import unquote_to_bytes

from gateway.access.claims import USER_SIZE
from gateway.push.errors import RequestRejected
from protocol import channels, fields, limits
from protocol.errors import ErrorCode
from protocol.position import MessageId

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def channel_name(name: str) -> str:
    """Return *name* if it is a channel's."""
    if not channels.is_channel_name(name):
        raise _rejected("channel", channels.expected_name(name), name)
    return name


def require_personal_channel(user: str) -> str:
    """Return the personal channel of *user*; 422 for a user who can have none."""
    name = channels.personal_channel(user_name(user))
    if not channels.is_channel_name(name):
        longest = limits.PERSONAL_CHANNEL_NAME - 1
        raise _rejected("user", f"one of at most {longest} characters once percent-encoded", user)
    return name


def user_name(name: str) -> str:
    """Return *name* if it is a user's, as in a token's `sub`."""
    if not 0 < len(name) <= USER_SIZE or _CONTROL.search(name):
        raise _rejected("user", f"1 to {USER_SIZE} characters without control characters", name)
    return name


def channel_from_path(segment: str) -> str:
    """Return the channel that a segment of a path names."""
    return channel_name(_percent_decoded("channel", segment))


def user_from_path(segment: str) -> str:
    """Return the user that a segment of a path names."""
    return user_name(_percent_decoded("user", segment))


def position_from_query(since: str | None) -> MessageId | None:
    """Return the message id of the query parameter `since`, if it is there."""
    try:
        return None if since is None else MessageId.parse(since)
    except ValueError as error:
        raise RequestRejected(422, ErrorCode.BAD_REQUEST, f"since: {error}") from None


def encode_cursor(last: str) -> str:
    """Return the cursor of the page after the one that ends with *last*; opaque, so it may change."""
    return urlsafe_b64encode(last.encode()).rstrip(b"=").decode()


def decode_cursor(cursor: str | None) -> str:
    """Return the name that the page of *cursor* begins after; without a cursor, "", before every name."""
    if not cursor:
        return ""
    try:
        return b64decode(cursor + "=" * (-len(cursor) % 4), altchars="-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _rejected("cursor", "a cursor as an answer gave it out", cursor) from None


def _percent_decoded(what: str, segment: str) -> str:
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise _rejected(what, "percent-encoded UTF-8", segment) from None


def _rejected(what: str, expected: str, value: str) -> RequestRejected:
    return RequestRejected(422, ErrorCode.BAD_REQUEST, f"{what}: {fields.expected(expected, value).message}")
