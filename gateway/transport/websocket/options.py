"""The bounds of every WebSocket connection of a listener."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway import defaults
from gateway.transport.incoming_memory import IncomingMemory
from gateway.transport.websocket.frame_budget import FrameBudget
from protocol import limits


@dataclass(frozen=True, slots=True)
class WebSocketOptions:
    """The bounds of every WebSocket connection of a listener."""

    message_size: int = limits.ENCODED_SIZE
    """Bytes in one message from the peer; a larger one closes the connection with 1009."""
    high_water: int = defaults.HIGH_WATER_BYTES
    """Bytes in asyncio's write buffer above which `writable` is False."""
    low_water: int = defaults.LOW_WATER_BYTES
    """Bytes in asyncio's write buffer below which `writable` is True again."""
    stall_timeout: float = defaults.STALL_TIMEOUT_SECONDS
    """Seconds without any progress of a full socket after which it is aborted."""
    close_timeout: float = 5.0
    """Seconds that a peer has to answer our Close, or to close after a violation; then it is aborted."""
    read_slice: int = 8 * 1024
    """Bytes of one connection that are handled before the others get their turn."""
    read_frames: int = 64
    """Frames of one connection that are handled before the others get their turn: small frames cost as much
    as large ones."""
    frame_budget: FrameBudget = field(default_factory=FrameBudget)
    """What all connections share in one turn of the event loop."""
    incoming: IncomingMemory | None = None
    """What the incomplete messages of all connections may take together; None: any number of bytes."""
    control_buffer: int = 1024 * 1024
    """Bytes of unread answers to control frames, beyond `high_water`, above which a peer is aborted."""
