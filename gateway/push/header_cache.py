"""Header blocks parsed once: a client on a keep-alive connection sends the same one again and again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import httptools

from gateway.push.content_types import ContentType, accepted, media_of
from gateway.push.errors import RequestRejected
from gateway.push.keys import Keys

REQUEST_LINE: Final = b"POST /v1/publish HTTP/1.1\r\n"

REMEMBERED = 256
"""Blocks; with as many the table is emptied, so that clients whose headers never repeat cost no memory."""
HEAD_SIZE = 2 * 1024
"""Bytes in a block that is worth remembering."""

_LENGTH = re.compile(rb"\r\ncontent-length: ?(\d{1,8})\r\n", re.IGNORECASE)

_ONCE = (b"accept", b"authorization", b"connection", b"content-length", b"content-type")
_NEVER = (b"content-encoding", b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade")


@dataclass(frozen=True, slots=True)
class CachedHeader:
    """What a header block with a valid key says of the body behind it, and of the answer."""

    media: ContentType
    answer: ContentType


class HeaderCache:
    """Header blocks of `POST /v1/publish`, by their bytes without the digits of the Content-Length.

    Only blocks with a valid key are remembered, and a look-up compares bytes only after their keyed hash
    (SipHash, PEP 456) has matched: how long it takes tells nothing about a key.
    """

    __slots__ = ("_keys", "_known")

    def __init__(self, keys: Keys) -> None:
        """Know no block yet."""
        self._keys = keys
        self._known: dict[bytes, CachedHeader] = {}

    def find(self, data: bytes) -> tuple[CachedHeader, int, int] | None:
        """Return what the block at the start of *data* says, and where the body behind it begins and ends.

        None for everything that is not a plain, authorized `POST /v1/publish` with a Content-Length.
        """
        if not data.startswith(REQUEST_LINE):
            return None
        begin = data.find(b"\r\n\r\n", 0, HEAD_SIZE) + 4
        length = _LENGTH.search(data, 0, begin)
        if length is None:
            return None
        first, last = length.span(1)
        block = data[:first] + data[last:begin]
        head = self._known.get(block)
        if head is None:
            head = read(data[:begin], self._keys)
            if head is None:
                return None
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[block] = head
        return head, begin, begin + int(data[first:last])

    def __len__(self) -> int:
        return len(self._known)


def read(block: bytes, keys: Keys) -> CachedHeader | None:
    """Return what the header block says; None where it is malformed, unauthorized, or asks for more."""
    fields = _Fields()
    try:
        httptools.HttpRequestParser(fields).feed_data(block)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    found = fields.found
    if not (fields.complete and _plain(found) and keys.admit(found.get(b"authorization", [None])[0])):
        return None
    one = {name: values[0].decode("latin-1") for name, values in found.items()}
    try:
        media = media_of(one.get(b"content-type"))
    except RequestRejected:
        return None
    return CachedHeader(media, accepted(one.get(b"accept"), otherwise=media))


def _plain(found: Mapping[bytes, Sequence[bytes]]) -> bool:
    """Return whether these header fields ask for nothing special, and not for the end of the connection."""
    if any(name in _NEVER or (name in _ONCE and len(values) > 1) for name, values in found.items()):
        return False
    return all(value.lower() == b"keep-alive" for value in found.get(b"connection", ()))


class _Fields:
    """The header fields of one block, as httptools tells them."""

    def __init__(self) -> None:
        self.found: dict[bytes, list[bytes]] = {}
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.setdefault(name.lower(), []).append(value)

    def on_headers_complete(self) -> None:
        self.complete = True
