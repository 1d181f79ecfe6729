"""Who may call the internal API: whoever sends one of the configured keys."""

from __future__ import annotations

import hmac
from collections.abc import Sequence


class Keys:
    """The keys that are valid now; several, so that they can be replaced one by one."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[str]) -> None:
        """Take the valid *keys*; with none, nobody is admitted. `ValueError` for an empty one."""
        if not all(keys):
            raise ValueError("a push key is empty, and so would let everybody in: remove it from push.keys")
        self._keys = tuple(key.encode() for key in keys)

    def admit(self, authorization: bytes | None) -> bool:
        """Return whether the value of an Authorization header carries a valid key (RFC 6750 section 2.1).

        Every key is compared in full, so the time taken tells neither which one matched nor how much of it.
        """
        scheme, _, given = (authorization or b"").strip(b" \t").partition(b" ")
        given = given.lstrip(b" ")
        known = False
        for key in self._keys:
            known |= hmac.compare_digest(key, given)
        return known and scheme.lower() == b"bearer"

    def __repr__(self) -> str:
        return f"<Keys {len(self._keys)}>"
