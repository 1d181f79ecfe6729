"""The data of a message: checked once, kept as canonical JSON, converted to MessagePack at the first use."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import msgpack
import orjson

from fanway_client._protocol import limits
from fanway_client._protocol.errors import BadRequest

_EXPONENT = re.compile(rb"e\+?\d")
"""How orjson writes every float that was an integer beyond 64 bits; rare enough for an exact check."""

_JSON_TYPES = frozenset({type(None), bool, int, float, str, list, dict})
_OTHER_TYPES = {bytes: "binary data", msgpack.ExtType: "an extension type", msgpack.Timestamp: "a timestamp"}


class Payload:
    """The `data` of one message, encoded: either codec inserts it into a message as it is."""

    __slots__ = ("_msgpack", "json")

    def __init__(self, encoded: bytes) -> None:
        """Wrap *encoded*, canonical JSON as `payload_of` makes it."""
        self.json = encoded
        self._msgpack: bytes | None = None

    @property
    def msgpack(self) -> bytes:
        """The value as MessagePack, encoded at the first use."""
        if self._msgpack is None:
            packed: bytes = _packer.pack(self.value)
            self._msgpack = packed
        return self._msgpack

    @property
    def value(self) -> Any:
        """The value, decoded at each use."""
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
    """Return the payload of *value*, which `decode_json` or `decode_msgpack` returned.

    Args:
        source: The JSON text that contains *value*, if it came from one. orjson silently turns integers
            beyond 64 bits into floats; with the text they are found and rejected.

    Raises:
        BadRequest: JSON cannot encode *value*: bytes, extension types, keys that are not strings, lone
            surrogates, integers beyond 64 bits, or nesting that is too deep for orjson.
    """
    try:
        encoded = orjson.dumps(value)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"{_first_line(error)}; data must be what JSON can carry") from None
    if source is not None:
        check_integers(encoded, source)
    # orjson's result keeps its write buffer, up to 14 times its size; the copy does not.
    return Payload(bytes(memoryview(encoded)))


def check_integers(encoded: bytes, source: bytes) -> None:
    """Raise `BadRequest` if a number in *encoded* is an integer beyond 64 bits in its JSON *source*."""

    def check(text: str) -> None:
        # orjson has rejected numbers that are too long for int().
        if not limits.INT_MIN <= int(text) <= limits.INT_MAX and orjson.dumps(float(text)) in encoded:
            shown = text if len(text) <= 24 else f"{text[:24]}…"
            raise BadRequest(f"{shown} does not fit 64 bits; send it as a string")

    if _EXPONENT.search(encoded):
        json.loads(source, parse_int=check)


def check_value(value: Any, depth: int = limits.DEPTH) -> None:
    """Raise `BadRequest` if JSON cannot encode *value*, from MessagePack, or it nests deeper than *depth*.

    If orjson encodes it, the items are checked one by one only if the result may nest too deep, or has a
    null, which is also how orjson writes NaN and infinity: 0.6 µs instead of 3.5 for a small publish.
    """
    try:
        encoded = orjson.dumps(value)
    except (TypeError, ValueError):
        encoded = b"null"
    if b"null" in encoded or max_nesting(encoded) > depth:
        _check_levels(value, depth)


def check_depth(value: Any, depth: int = limits.DEPTH) -> None:
    """Raise `BadRequest` if *value* nests deeper than *depth* levels."""
    for _ in _levels(value, depth):
        pass


def max_nesting(encoded: bytes) -> int:
    """Return an upper bound of the levels in the JSON text *encoded*; cheap, and usually low enough."""
    return encoded.count(b"[") + encoded.count(b"{")


def _check_levels(value: Any, depth: int) -> None:
    for level, maps in _levels(value, depth):
        types = set(map(type, level))
        for item_type in types - _JSON_TYPES:
            name = _OTHER_TYPES.get(item_type, item_type.__name__)
            raise BadRequest(f"{name} cannot be encoded as JSON; send text, e.g. base64")
        if float in types:
            _check_floats(level)
        _check_keys(chain.from_iterable(maps))


def _levels(value: Any, depth: int) -> Iterator[tuple[list[Any], list[dict[Any, Any]]]]:
    """Yield the items of each level of *value*, and the maps among them; `BadRequest` beyond *depth* levels.

    By level, because chains and sets run in C: 64 KiB of small arrays cost 3 ms; item by item, they cost 25.
    """
    level = [value]
    for _ in range(depth + 1):
        maps = [item for item in level if type(item) is dict]
        yield level, maps
        arrays = [item for item in level if type(item) is list]
        if not maps and not arrays:
            return
        level = list(chain(chain.from_iterable(arrays), chain.from_iterable(map(dict.values, maps))))
    raise BadRequest(f"nested deeper than {depth} levels")


def _check_floats(level: Iterable[Any]) -> None:
    for item in level:
        if type(item) is float and not math.isfinite(item):
            raise BadRequest(f"{item} is not a JSON number")


def _check_keys(keys: Iterable[Any]) -> None:
    for key_type in set(map(type, keys)) - {str}:
        raise BadRequest(f"a map key is a {key_type.__name__}; keys must be strings")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


_packer = msgpack.Packer(autoreset=True)
