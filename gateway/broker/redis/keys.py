"""The names of what a broker keeps in Redis: pure."""

from __future__ import annotations

from zlib import crc32


def shard_of(name: str, shards: int) -> int:
    """Return the shard of a channel or of an interest in a user.

    `@ann` and `=ann`, a user's personal channel and its connections, are of one shard.
    """
    stem = name[1:] if name[:1] in ("@", "=") else name
    return crc32(stem.encode()) % shards


class Keys:
    """The keys of one shard; their hash tag keeps them in one slot of a Cluster."""

    __slots__ = (
        "base",
        "beats",
        "figures",
        "inboxes",
        "layout",
        "members_of",
        "names",
        "nodes",
        "routes",
        "said",
        "state",
        "who_of",
    )

    def __init__(self, prefix: str, shard: int, *, cluster: bool = False) -> None:
        """Name the keys of *shard*; in a *cluster* none is outside of its slot."""
        self.base = f"{prefix}:{{{shard}}}:"
        self.state = f"{self.base}state"
        """`e`: the epoch; `n`: how many members there ever were; `gone:<node>`: it was cleaned up after."""
        self.layout = f"{self.base}layout" if cluster else f"{prefix}:layout"
        """Which servers and shards the nodes that run have: two that differ would not hear each other."""
        self.nodes = f"{self.base}nodes"
        """When each node's lease ends, in Unix ms by Redis' clock; 0: it is being cleaned up after."""
        self.figures = f"{self.base}figures"
        self.beats = f"{self.base}beats"
        """How much each node has written; it alone counts it up, so that a lower count means lost writes."""
        self.names = f"{self.base}names"
        """Every routed channel, by name."""
        self.said = f"{self.base}said"
        """What users' connections were told to do, for nodes that were not there to hear it."""
        self.routes = f"{self.base}route:"
        self.inboxes = f"{self.base}in:"
        self.who_of = f"{self.base}who:"
        self.members_of = f"{self.base}pn:"

    def meta(self, channel: str) -> str:
        """Where the channel stands."""
        return f"{self.base}meta:{channel}"

    def log(self, channel: str) -> str:
        """Its history."""
        return f"{self.base}log:{channel}"

    def route(self, name: str) -> str:
        """The nodes that want what is said there."""
        return self.routes + name

    def who(self, channel: str) -> str:
        """Its members."""
        return self.who_of + channel

    def users(self, channel: str) -> str:
        """How many connections each user has there; no channel's name has a newline."""
        return f"{self.who(channel)}\nusers"

    def key(self, channel: str, key: str) -> str:
        """What a publish with that idempotency key was answered; no channel's name has a newline."""
        return f"{self.base}key:{channel}\n{key}"

    def inbox(self, node: str) -> str:
        """What waits for *node*."""
        return self.inboxes + node

    def of(self, node: str) -> str:
        """What *node* is routed for."""
        return f"{self.base}of:{node}"

    def members(self, node: str) -> str:
        """The members that live on *node*."""
        return self.members_of + node
