"""Pure functions on the bytes of frames (RFC 6455 section 5.2): size, kind, payload."""

from __future__ import annotations

from websockets.speedups import apply_mask

_TEXT, _BINARY = 0x81, 0x82
"""The first byte of an unfragmented data frame: FIN and the opcode."""
_DATA = (_TEXT, _BINARY)
_MASKED = 0x80
_MAX_HEADER_SIZE = 14
_MAX_REASON_SIZE = 123
"""Bytes of a reason in a Close frame: 125 in a control frame, less two for the code (section 5.5)."""


def is_complete_data_frame(raw: bytes, max_payload: int) -> bool:
    """Return whether *raw* is exactly one masked, unfragmented data frame of at most *max_payload* bytes."""
    size = len(raw)
    if size < 6 or raw[0] not in _DATA:
        return False
    length = raw[1] - _MASKED
    if length < 126:
        return length == size - 6 <= max_payload
    return length == 126 and size >= 8 and 126 <= (raw[2] << 8 | raw[3]) == size - 8 <= max_payload


def is_fragment(first: int) -> bool:
    """Return whether a frame whose first byte is *first* is part of a fragmented message."""
    opcode = first & 0x0F
    return opcode < 0x8 and (first < 0x80 or opcode == 0)


def is_binary(raw: bytes) -> bool:
    """Return whether the complete data frame *raw* is a binary one (`is_complete_data_frame`)."""
    return raw[0] == _BINARY


def unmasked_payload(raw: bytes) -> bytes:
    """Return the payload of the data frame *raw*, which must be complete (`is_complete_data_frame`)."""
    mask = 2 if raw[1] - _MASKED < 126 else 4
    return apply_mask(raw[mask + 4 :], raw[mask : mask + 4])


def processable_size(buffer: bytes, start: int, max_payload: int) -> int:
    """Return how many bytes from *start* can be handled now: one complete frame, or 0 if it is incomplete.

    A frame that announces more than *max_payload* bytes is returned as far as it has been read, because the
    header is enough to fail the connection.
    """
    size = announced_frame_size(buffer, start)
    if size is None:
        return 0
    available = len(buffer) - start
    if available < size and size - _MAX_HEADER_SIZE <= max_payload:
        return 0
    return min(size, available)


def announced_frame_size(buffer: bytes, start: int) -> int | None:
    """Return the size in bytes that the header at *start* announces; None while the header is incomplete."""
    available = len(buffer) - start
    if available < 2:
        return None
    second = buffer[start + 1]
    mask_size = 4 if second & _MASKED else 0
    length = second & 0x7F
    if length < 126:
        return 2 + mask_size + length
    extended = 2 if length == 126 else 8
    if available < 2 + extended:
        return None
    return 2 + extended + mask_size + int.from_bytes(buffer[start + 2 : start + 2 + extended], "big")


def is_utf8(payload: bytes) -> bool:
    """Return whether *payload* is UTF-8, as text must be (RFC 6455 section 8.1)."""
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def truncated_reason(reason: str) -> str:
    """Return *reason* cut to the 123 bytes that fit into a Close frame (RFC 6455 section 5.5)."""
    return reason.encode()[:_MAX_REASON_SIZE].decode(errors="ignore")
