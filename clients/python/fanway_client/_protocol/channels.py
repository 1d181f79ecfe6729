"""The grammar of channel names: `[A-Za-z0-9_.:@~-]{1,128}`; `namespace:rest`; `@user`.

See docs/protocol.md#limits.
"""

from __future__ import annotations

import re

from fanway_client._protocol import limits

_NAME = re.compile(rf"[A-Za-z0-9_.:@~-]{{1,{limits.CHANNEL_NAME}}}")


def is_channel_name(name: str) -> bool:
    """Return whether *name* may name a channel."""
    return _NAME.fullmatch(name) is not None


def namespace_of(name: str) -> str | None:
    """Return the part of *name* before its first colon; None without a colon, and for personal channels."""
    if name.startswith("@"):
        return None
    head, colon, _ = name.partition(":")
    return head if colon else None


def personal_channel(user: str) -> str:
    """Return the name of the personal channel of *user*."""
    return f"@{user}"


def personal_user(name: str) -> str | None:
    """Return the only user who may subscribe to *name*; None if it is not a personal channel."""
    return name[1:] if name.startswith("@") and len(name) > 1 else None
