"""The client of the Fanway real-time gateway: reconnects, resumes, and tells where messages are missing."""

from fanway_client.channel import Channel, MessageLoop, Presence
from fanway_client.client import Fanway
from fanway_client.connection import State, StateChange
from fanway_client.errors import FanwayError, UnauthorizedError
from fanway_client.publisher import Published
from fanway_client.subscription import ChannelState, Gap, LoadRequest, Member, Message, Sender

__all__ = [
    "Channel",
    "ChannelState",
    "Fanway",
    "FanwayError",
    "Gap",
    "LoadRequest",
    "Member",
    "Message",
    "MessageLoop",
    "Presence",
    "Published",
    "Sender",
    "State",
    "StateChange",
    "UnauthorizedError",
]
