"""Tokens for users, signed with the gateway's own secret."""

from __future__ import annotations

import time

from joserfc import jwt
from joserfc.jwk import OctKey

TTL_SECONDS = 12 * 3600
"""Longer than any run."""


def create_token(secret: str, user: str) -> str:
    """Return a token for *user* (docs/protocol.md#tokens)."""
    now = int(time.time())
    return jwt.encode(
        {"alg": "HS256"}, {"sub": user, "iat": now, "exp": now + TTL_SECONDS}, OctKey.import_key(secret)
    )
