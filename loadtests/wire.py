"""The wire as a client sees it: its two codecs, what it does when it is closed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import orjson


@dataclass(frozen=True, slots=True)
class Codec:
    """One of the two ways in which messages become frames."""

    name: str
    subprotocol: str
    binary: bool
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


JSON = Codec("json", "fanway.v1.json", binary=False, encode=orjson.dumps, decode=orjson.loads)
MSGPACK = Codec("msgpack", "fanway.v1.msgpack", binary=True, encode=msgpack.packb, decode=msgpack.unpackb)
CODECS = {"json": (JSON,), "msgpack": (MSGPACK,), "both": (JSON, MSGPACK)}
"""What users speak, in turn."""

ABNORMAL = 1006
"""The code of a connection that ended without a Close frame (RFC 6455, section 7.4.1)."""

GIVE_UP = frozenset({1009, 4002, 4003, 4005, 4012})
"""Close codes after which a client stops; after any other it comes back and resumes (PROTOCOL)."""

FINAL = frozenset(
    {"bad_request", "permission_denied", "token_expired", "unauthorized", "unknown_channel", "limit_exceeded"}
)
"""Errors after which the same command will not succeed later either."""

BACKOFF, BACKOFF_LIMIT = 0.5, 30.0
"""Seconds that a client waits at most before it comes back: doubling, with full jitter (PROTOCOL)."""
