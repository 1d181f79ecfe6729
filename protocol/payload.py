"""What a message carries: checked once, kept as canonical JSON bytes, turned into MessagePack only where someone wants it."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import msgpack
import orjson

from protocol import limits
from protocol.errors import BadRequest

_EXPONENT = re.compile(rb"e\+?\d")
"""How orjson writes any float that an integer beyond 64 bits became; rare enough in text to pay for the exact check."""


class Payload:
    """The `data` of one message, ready to be spliced into either codec's encoding."""

    __slots__ = ("_msgpack", "json")

    def __init__(self, encoded: bytes) -> None:
        """Wrap *encoded*, which must be canonical JSON that `payload_of` made."""
        self.json = encoded
        self._msgpack: bytes | None = None

    @property
    def msgpack(self) -> bytes:
        """The same value as MessagePack, encoded at the first use."""
        if self._msgpack is None:
            packed: bytes = msgpack.packb(self.value)
            self._msgpack = packed
        return self._msgpack

    @property
    def value(self) -> Any:
        """The value, decoded anew at each use."""
        return orjson.loads(self.json)

    def __len__(self) -> int:
        return len(self.json)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Payload) and self.json == other.json

    def __hash__(self) -> int:
        return hash(self.json)

    def __repr__(self) -> str:
        return f"<Payload {len(self.json)} bytes>"


def payload_of(value: Any, *, source: bytes | None = None) -> Payload:
    """Return *value* as a payload.

    *source* is the JSON text that *value* was decoded from, where it was: integers beyond 64 bits, which orjson turns into
    floats without a word, are then found and refused. `BadRequest` for what JSON cannot carry: bytes, extension types,
    keys that are no strings, lone surrogates, or nesting deeper than orjson encodes.
    """
    try:
        encoded = orjson.dumps(value)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"data: {_plain(error)}; data must be what JSON can carry") from None
    if source is not None and _EXPONENT.search(encoded):
        check_integers(source)
    return Payload(encoded)


def check_integers(source: bytes) -> None:
    """Raise `BadRequest` where the JSON text *source* holds an integer that 64 bits cannot carry."""
    json.loads(source, parse_int=_exact_int)


def check_value(value: Any, depth: int = limits.DEPTH) -> None:
    """Raise `BadRequest` where *value*, decoded from MessagePack, holds what JSON cannot carry or nests deeper than *depth*."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadRequest(f"{value} is no number that JSON can carry")
    elif isinstance(value, dict | list):
        if depth == 0:
            raise BadRequest(f"nested deeper than {limits.DEPTH} levels")
        for key in value if isinstance(value, dict) else ():
            if not isinstance(key, str):
                raise BadRequest(f"a map key is a {type(key).__name__}; keys must be strings")
        for item in value.values() if isinstance(value, dict) else value:
            check_value(item, depth - 1)
    elif value is not None and not isinstance(value, str | int):
        raise BadRequest(f"a {type(value).__name__} is nothing that JSON can carry; send text, e.g. base64")


def check_depth(value: Any, depth: int = limits.DEPTH) -> None:
    """Raise `BadRequest` where *value* nests deeper than *depth* levels."""
    if isinstance(value, dict | list):
        if depth == 0:
            raise BadRequest(f"nested deeper than {limits.DEPTH} levels")
        for item in value.values() if isinstance(value, dict) else value:
            check_depth(item, depth - 1)


def _exact_int(text: str) -> int:
    if len(text) > 20 or not limits.INT_MIN <= int(text) <= limits.INT_MAX:
        _refuse_int(text)
    return int(text)


def _refuse_int(text: str) -> NoReturn:
    shown = text if len(text) <= 24 else f"{text[:24]}…"
    raise BadRequest(f"{shown} does not fit 64 bits; send it as a string")


def _plain(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
