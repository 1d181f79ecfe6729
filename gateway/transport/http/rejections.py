"""How an HTTP answer that refuses says why, on either listener, and when to come again (docs/protocol.md)."""

from __future__ import annotations

import math
from typing import Any


def body(code: str, message: str, retry_after: float | None = None) -> dict[str, Any]:
    """Return `{"error": {…}}`; *retry_after* is in seconds, where the same request may succeed then."""
    error: dict[str, Any] = {"code": str(code), "message": message}
    if retry_after is not None:
        error["retry_after_ms"] = math.ceil(retry_after * 1000)
    return {"error": error}


def headers(retry_after: float | None) -> dict[str, str]:
    """Return Retry-After, which knows whole seconds alone; nothing where waiting is no use."""
    return {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}
