"""The bounds of every link of a listener."""

from __future__ import annotations

from dataclasses import dataclass

from protocol import limits


@dataclass(frozen=True, slots=True)
class WebSocketOptions:
    """The bounds of every link of a listener."""

    message_size: int = limits.MESSAGE_SIZE
    """Bytes in one message from the peer; 1009 beyond."""
    high_water: int = 64 * 1024
    """Bytes in the transport's buffer from which on `writable` is False."""
    low_water: int = 16 * 1024
    stall_timeout: float = 20.0
    """Seconds for which a full socket may take nothing before it is aborted."""
    close_timeout: float = 5.0
    """Seconds a peer has to answer our Close, or to close when told what it did; then it is aborted."""
    read_slice: int = 8 * 1024
    """Bytes of one peer that are handled before the others get their turn."""
    read_frames: int = 64
    """Frames of one peer that are handled before the others get theirs: small ones cost as much as large."""
    control_buffer: int = 1024 * 1024
    """Bytes of unread answers to control frames after which a peer is aborted."""
