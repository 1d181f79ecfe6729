"""The keys that backends send to the push API (docs/push-api.md#keys)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence


class PushKeys:
    """The keys that are valid now; several, so that they can be replaced one by one."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[str]) -> None:
        """Take the valid *keys*; without any, every request is rejected. `ValueError` for an empty key."""
        if not all(keys):
            raise ValueError("a push key is empty, and so would let everybody in: remove it from push.keys")
        self._keys = tuple(key.encode() for key in keys)

    def accepts(self, authorization: bytes | None) -> bool:
        """Return whether the value of an Authorization header has a valid key (RFC 6750 section 2.1)."""
        return self.number_of(authorization) is not None

    def number_of(self, authorization: bytes | None) -> int | None:
        """Return which key the value of an Authorization header has, from 1 on; None if it has no valid one.

        Every key is compared in full, so the duration reveals neither which one matched nor how much of it.
        """
        scheme, _, given = (authorization or b"").strip(b" \t").partition(b" ")
        given = given.lstrip(b" ")
        number = 0
        for candidate, key in enumerate(self._keys, 1):
            number += candidate * hmac.compare_digest(key, given)
        return number if number and scheme.lower() == b"bearer" else None

    def __repr__(self) -> str:
        return f"<PushKeys {len(self._keys)}>"
