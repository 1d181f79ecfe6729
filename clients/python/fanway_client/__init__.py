"""The client of the Fanway real-time gateway: reconnects, resumes, and tells where messages are missing."""

from fanway_client.channel import Channel, ChannelPresence, MessageLoop, Presence
from fanway_client.client import Fanway, Statistics
from fanway_client.connection import State, StateChange
from fanway_client.errors import FanwayError, UnauthorizedError
from fanway_client.live_presence import LivePresence
from fanway_client.positions import FilePositions, Positions
from fanway_client.publisher import Published
from fanway_client.subscription import (
    ChannelState,
    ChannelStatistics,
    Gap,
    LoadRequest,
    Member,
    Message,
    Sender,
)

__all__ = [
    "Channel",
    "ChannelPresence",
    "ChannelState",
    "ChannelStatistics",
    "Fanway",
    "FanwayError",
    "FilePositions",
    "Gap",
    "LivePresence",
    "LoadRequest",
    "Member",
    "Message",
    "MessageLoop",
    "Positions",
    "Presence",
    "Published",
    "Sender",
    "State",
    "StateChange",
    "Statistics",
    "UnauthorizedError",
]
