"""Tokens for users, signed with the gateway's own secret."""

from __future__ import annotations

import time

from joserfc import jwt
from joserfc.jwk import OctKey

TTL = 12 * 3600
"""Seconds: longer than any run."""


def mint(secret: str, user: str) -> str:
    """Return a token for *user* (PROTOCOL, Tokens)."""
    now = int(time.time())
    return jwt.encode(
        {"alg": "HS256"}, {"sub": user, "iat": now, "exp": now + TTL}, OctKey.import_key(secret)
    )
