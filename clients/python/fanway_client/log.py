"""The log of the client: at `DEBUG` every message, without tokens and payloads."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlsplit

LOGGER = logging.getLogger("fanway_client")
SECRET = frozenset({"token", "key"})
"""Fields whose strings are not logged; `limits` has numbers of these names."""
PRIVATE = frozenset({"data", "info"})
"""Fields that are not logged: payloads, and what a token says about a person."""


def redacted(message: Any) -> Any:
    """Return *message* for the log, with `…` for tokens and payloads."""
    if isinstance(message, dict):
        return {
            name: "…" if name in PRIVATE or (name in SECRET and isinstance(value, str)) else redacted(value)
            for name, value in message.items()
        }
    if isinstance(message, list):
        return [redacted(each) for each in message]
    return message


def endpoint(url: str) -> str:
    """Return *url* for the log, without a password and without its query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
