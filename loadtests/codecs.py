"""The two encodings of messages in WebSocket frames (docs/protocol.md#connecting)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import orjson


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to encode messages in frames."""

    name: str
    subprotocol: str
    binary: bool
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


JSON = Codec("json", "fanway.v1.json", binary=False, encode=orjson.dumps, decode=orjson.loads)
MSGPACK = Codec("msgpack", "fanway.v1.msgpack", binary=True, encode=msgpack.packb, decode=msgpack.unpackb)
CODECS = {"json": (JSON,), "msgpack": (MSGPACK,), "both": (JSON, MSGPACK)}
"""By the value of `--codec`; users take the codecs in turn."""
