"""What a client does after a close or an error (docs/protocol.md#close-codes, #errors)."""

from __future__ import annotations

GIVE_UP_CLOSE_CODES = frozenset({1009, 4002, 4003, 4005, 4012})
"""After these a client stops; after any other it reconnects and resumes."""

PERMANENT_ERRORS = frozenset(
    {"bad_request", "permission_denied", "token_expired", "unauthorized", "unknown_channel", "limit_exceeded"}
)
"""Errors after which the same command cannot succeed later either."""

BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 30.0
"""Upper bound of the delay before a reconnect: doubles with each attempt, with full jitter."""
