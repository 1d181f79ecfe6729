"""The grammar of channel names: `[A-Za-z0-9_.:@~-]{1,128}`, `ns:rest`, `@user`."""

from __future__ import annotations

import re

from protocol import limits

_NAME = re.compile(rf"[A-Za-z0-9_.:@~-]{{1,{limits.CHANNEL_NAME}}}")


def valid(name: str) -> bool:
    """Return whether *name* is a channel's name."""
    return _NAME.fullmatch(name) is not None


def namespace_of(name: str) -> str | None:
    """Return what stands before the first colon of *name*; None without a colon and for personal channels."""
    if name.startswith("@"):
        return None
    head, colon, _ = name.partition(":")
    return head if colon else None


def personal(user: str) -> str:
    """Return the name of the personal channel of *user*."""
    return f"@{user}"


def personal_user(name: str) -> str | None:
    """Return the one user who may follow *name*; None where it is no personal channel."""
    return name[1:] if name.startswith("@") and len(name) > 1 else None
