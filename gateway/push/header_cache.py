"""Header blocks parsed once: a client on a keep-alive connection sends the same block with each request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import httptools

from gateway.access.origins import hosts_are_loopback
from gateway.push.content_types import ContentType, preferred_content_type, request_content_type
from gateway.push.errors import RequestRejected
from gateway.push.push_keys import PushKeys

REQUEST_LINE: Final = b"POST /v1/publish HTTP/1.1\r\n"

MAX_BLOCKS = 256
"""Blocks in the cache; a full cache is emptied, so that clients whose headers never repeat cost no memory."""
MAX_BLOCK_BYTES = 2 * 1024
"""Bytes in a block that is cached; larger ones are left to the routes."""

_LENGTH = re.compile(rb"\r\ncontent-length: ?(\d{1,8})\r\n", re.IGNORECASE)

_NOT_REPEATABLE = (b"accept", b"authorization", b"connection", b"content-length", b"content-type")
_LEFT_TO_ROUTES = (b"content-encoding", b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade")


@dataclass(frozen=True, slots=True)
class ParsedBlock:
    """The content types of the body and of the answer, from a header block with a valid key."""

    key: int
    """The number of the key (`PushKeys.number_of`)."""
    request_type: ContentType
    answer_type: ContentType


class HeaderCache:
    """Header blocks of `POST /v1/publish`, by their bytes without the digits of the Content-Length.

    Only blocks with a valid key are cached, and a look-up compares bytes only after their keyed hash
    (SipHash, PEP 456) has matched: the time that it takes reveals nothing about a key.
    """

    __slots__ = ("_blocks", "_keys", "_loopback_hosts_only")

    def __init__(self, keys: PushKeys, *, loopback_hosts_only: bool = False) -> None:
        """Start empty; *keys* are the valid ones; *loopback_hosts_only* leaves other hosts to the routes."""
        self._keys = keys
        self._loopback_hosts_only = loopback_hosts_only
        self._blocks: dict[bytes, ParsedBlock] = {}

    def find(self, data: bytes) -> tuple[ParsedBlock, int, int] | None:
        """Return the parsed block at the start of *data*, and where the body behind it begins and ends.

        None for everything that is not a plain, authorized `POST /v1/publish` with a Content-Length.
        """
        if not data.startswith(REQUEST_LINE):
            return None
        begin = data.find(b"\r\n\r\n", 0, MAX_BLOCK_BYTES) + 4
        length = _LENGTH.search(data, 0, begin)
        if length is None:
            return None
        first, last = length.span(1)
        block = data[:first] + data[last:begin]
        parsed = self._blocks.get(block)
        if parsed is None:
            parsed = parse_block(data[:begin], self._keys, loopback_hosts_only=self._loopback_hosts_only)
            if parsed is None:
                return None
            if len(self._blocks) >= MAX_BLOCKS:
                self._blocks.clear()
            self._blocks[block] = parsed
        return parsed, begin, begin + int(data[first:last])

    def __len__(self) -> int:
        return len(self._blocks)


def parse_block(block: bytes, keys: PushKeys, *, loopback_hosts_only: bool = False) -> ParsedBlock | None:
    """Return what the header block says; None where it is malformed, unauthorized, or left to the routes."""
    collector = _FieldCollector()
    try:
        httptools.HttpRequestParser(collector).feed_data(block)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    fields = collector.fields
    if not (collector.complete and _plain(fields)):
        return None
    key = keys.number_of(fields.get(b"authorization", [None])[0])
    if key is None:
        return None
    if loopback_hosts_only and not hosts_are_loopback(fields.get(b"host", ())):
        return None
    first_values = {name: values[0].decode("latin-1") for name, values in fields.items()}
    try:
        request_type = request_content_type(first_values.get(b"content-type"))
    except RequestRejected:
        return None
    answer_type = preferred_content_type(first_values.get(b"accept"), default=request_type)
    return ParsedBlock(key, request_type, answer_type)


def _plain(fields: Mapping[bytes, Sequence[bytes]]) -> bool:
    """Return whether no field asks for more than a publish, or for the end of the connection."""
    if any(
        name in _LEFT_TO_ROUTES or (name in _NOT_REPEATABLE and len(values) > 1)
        for name, values in fields.items()
    ):
        return False
    return all(value.lower() == b"keep-alive" for value in fields.get(b"connection", ()))


class _FieldCollector:
    """Collects the header fields of one block, as httptools' callbacks name them."""

    def __init__(self) -> None:
        self.fields: dict[bytes, list[bytes]] = {}
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.setdefault(name.lower(), []).append(value)

    def on_headers_complete(self) -> None:
        self.complete = True
