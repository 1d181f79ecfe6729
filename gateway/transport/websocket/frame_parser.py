"""Frames as bytes (RFC 6455 section 5.2): where one ends, whether it is a plain one, what is in it. Pure."""

from __future__ import annotations

from websockets.speedups import apply_mask

_TEXT, _BINARY = 0x81, 0x82
_DATA = (_TEXT, _BINARY)
_MASKED = 0x80
_LONGEST_HEADER = 14


def is_plain(raw: bytes, limit: int) -> bool:
    """Return whether *raw* is one whole, masked, unfragmented data frame with at most *limit* bytes in it."""
    size = len(raw)
    if size < 6 or raw[0] not in _DATA:
        return False
    length = raw[1] - _MASKED
    if length < 126:
        return length == size - 6 <= limit
    return length == 126 and size >= 8 and 126 <= (raw[2] << 8 | raw[3]) == size - 8 <= limit


def is_binary(raw: bytes) -> bool:
    """Return whether the plain frame *raw* is a binary one."""
    return raw[0] == _BINARY


def unmasked(raw: bytes) -> bytes:
    """Return the payload of the plain frame *raw*."""
    mask = 2 if raw[1] - _MASKED < 126 else 4
    return apply_mask(raw[mask + 4 :], raw[mask : mask + 4])


def available(buffer: bytes, start: int, limit: int) -> int:
    """Return how many bytes from *start* can be handled: one whole frame; 0 while it is not whole.

    A frame of more than *limit* bytes of payload can be as far as it has come: its header is enough to fail.
    """
    size = frame_size(buffer, start)
    if size is None:
        return 0
    here = len(buffer) - start
    if here < size and size - _LONGEST_HEADER <= limit:
        return 0
    return min(size, here)


def frame_size(buffer: bytes, start: int) -> int | None:
    """Return the bytes of the frame at *start* as its header announces them; None while that is not whole."""
    here = len(buffer) - start
    if here < 2:
        return None
    second = buffer[start + 1]
    masked = 4 if second & _MASKED else 0
    length = second & 0x7F
    if length < 126:
        return 2 + masked + length
    extended = 2 if length == 126 else 8
    if here < 2 + extended:
        return None
    return 2 + extended + masked + int.from_bytes(buffer[start + 2 : start + 2 + extended], "big")


def is_utf8(payload: bytes) -> bool:
    """Return whether *payload* is UTF-8, as text must be (RFC 6455 section 8.1)."""
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def close_reason(reason: str) -> str:
    """Return *reason* cut to the 123 bytes that a Close frame has room for (RFC 6455 section 5.5)."""
    return reason.encode()[:123].decode(errors="ignore")
