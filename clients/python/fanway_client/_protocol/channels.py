"""The grammar of channel names: `[A-Za-z0-9_.:@~-]{1,128}`; `namespace:rest`; `@user`.

The personal channel of a user is `@` and the user's name in percent-encoded UTF-8 (RFC 3986 section 2.1), up
to 512 characters: `@auth0%7C5f7c` is the channel of `auth0|5f7c`. Each user has exactly one: only bytes that
are not in the set above are encoded, with upper-case digits. See docs/protocol.md#limits.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, unquote_to_bytes

from fanway_client._protocol import limits

_NAME = re.compile(rf"[A-Za-z0-9_.:@~-]{{1,{limits.CHANNEL_NAME}}}")
_PERSONAL = re.compile(
    rf"@(?=.{{1,{limits.PERSONAL_CHANNEL_NAME - 1}}}\Z)(?:[A-Za-z0-9_.:@~-]|%[0-9A-F]{{2}})+"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNESCAPED = ":@"
"""What a user's name keeps in a channel's name beside RFC 3986's unreserved characters `A-Za-z0-9_.~-`."""


def is_channel_name(name: str) -> bool:
    """Return whether *name* may name a channel."""
    return _NAME.fullmatch(name) is not None or (
        _PERSONAL.fullmatch(name) is not None and _is_canonical(name)
    )


def expected_name(name: str) -> str:
    """Return what is expected of a channel's name instead of the invalid *name*, for an error message."""
    if name.startswith("@") and len(name) > 1:
        return (
            f"a personal channel of at most {limits.PERSONAL_CHANNEL_NAME} characters: @ and the user, where "
            "all but A-Z a-z 0-9 _ . : @ ~ - is percent-encoded UTF-8 with upper-case digits"
        )
    return f"a channel name of 1 to {limits.CHANNEL_NAME} characters A-Z a-z 0-9 _ . : @ ~ -"


def namespace_of(name: str) -> str | None:
    """Return the part of *name* before its first colon; None without a colon, and for personal channels."""
    if name.startswith("@"):
        return None
    head, colon, _ = name.partition(":")
    return head if colon else None


def personal_channel(user: str) -> str:
    """Return the name of the personal channel of *user*.

    It is not a valid name if it is longer than 512 characters; such a user has no personal channel.
    """
    return f"@{quote(user, safe=_UNESCAPED, errors='surrogatepass')}"


def personal_user(name: str) -> str | None:
    """Return the only user who may subscribe to the channel *name*; None if it is not a personal channel."""
    return unquote(name[1:]) if name.startswith("@") and len(name) > 1 else None


def _is_canonical(name: str) -> bool:
    """Return whether *name*, of a valid form, is the one spelling of the channel of a possible user."""
    try:
        user = unquote_to_bytes(name[1:]).decode()
    except UnicodeDecodeError:
        return False
    return _CONTROL.search(user) is None and personal_channel(user) == name
