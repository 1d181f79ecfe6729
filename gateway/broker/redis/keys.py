"""The names of all keys in Redis. docs/redis.md#what-is-in-it says what each of them holds."""

from __future__ import annotations

from zlib import crc32

from protocol.channels import personal_channel, personal_user


def shard_of(name: str, shards: int) -> int:
    """Return the number of the shard of *name*, a channel or a user's route (`=ann`), below *shards*.

    `@ann`, a user's personal channel, and `=ann`, the route of the user's connections, are on one shard: that
    of the user's name without percent-encoding.
    """
    user = personal_user(name)
    stem = name.removeprefix("=") if user is None else user
    return crc32(stem.encode()) % shards


def user_route(user: str) -> str:
    """Return the name under which nodes with a connection of *user* are routed; no channel has this name."""
    return f"={user}"


def user_routes(user: str) -> tuple[str, str]:
    """Return two names; a node with a connection of *user* is routed for at least one of them."""
    return user_route(user), personal_channel(user)


class Keys:
    """The keys of one shard; the common hash tag keeps all keys in one slot of a Cluster.

    Attributes are complete keys or, if the name of the attribute ends in `_prefix`, beginnings of keys.
    """

    __slots__ = (
        "base",
        "beats",
        "graces",
        "inbox_prefix",
        "layout",
        "members_prefix",
        "node_members_prefix",
        "node_records",
        "nodes",
        "route_prefix",
        "routed_names",
        "state",
        "user_commands",
    )

    def __init__(self, prefix: str, shard: int, *, cluster: bool = False) -> None:
        """Name the keys of *shard*; in a *cluster* the key `layout` has to be in the shard's slot too."""
        self.base = f"{prefix}:{{{shard}}}:"
        self.state = f"{self.base}state"
        """Hash. `e`: the epoch; `n`: how many members ever joined; `t`: when a lease was last renewed, in
        Unix ms by Redis' clock; `gone:<node>`: that node was reaped; `in:<node>`: bytes in its inbox;
        `emptied:<node>`: how often its inbox was emptied."""
        self.layout = f"{self.base}layout" if cluster else f"{prefix}:layout"
        """String: servers and shards of the running nodes; a node with another layout must not serve."""
        self.nodes = f"{self.base}nodes"
        """Sorted set: when each node's lease ends, in Unix ms by Redis' clock; 0 while the node is reaped."""
        self.node_records = f"{self.base}figures"
        """Hash: what each node reports about itself."""
        self.beats = f"{self.base}beats"
        """Hash: the number of writes of each node, its beat; if a beat went back, writes were lost."""
        self.routed_names = f"{self.base}names"
        """Sorted set: every routed channel, by name."""
        self.graces = f"{self.base}graces"
        """Sorted set: members whose connection has ended, and when their grace ends, in Unix ms."""
        self.user_commands = f"{self.base}said"
        """Stream: commands for users' connections, for nodes that were away when a command was sent."""
        self.route_prefix = f"{self.base}route:"
        self.inbox_prefix = f"{self.base}in:"
        self.members_prefix = f"{self.base}who:"
        self.node_members_prefix = f"{self.base}pn:"

    def meta(self, channel: str) -> str:
        """Hash: the position of *channel*."""
        return f"{self.base}meta:{channel}"

    def log(self, channel: str) -> str:
        """Stream: the history of *channel*."""
        return f"{self.base}log:{channel}"

    def route(self, name: str) -> str:
        """Set: the nodes that get what is published to *name*."""
        return self.route_prefix + name

    def members(self, channel: str) -> str:
        """Hash: the members of *channel*."""
        return self.members_prefix + channel

    def user_counts(self, channel: str) -> str:
        """Hash: how many connections each user has in *channel*; no channel's name has a newline."""
        return f"{self.members(channel)}\nusers"

    def absences(self, channel: str) -> str:
        """Hash: members of *channel* whose user may return, by user and info; see the script `join`."""
        return f"{self.members(channel)}\nabsent"

    def receipt(self, channel: str, key: str) -> str:
        """String: the answer to the publish with that idempotency key; no channel's name has a newline."""
        return f"{self.base}key:{channel}\n{key}"

    def inbox(self, incarnation: str) -> str:
        """Stream: the entries that *incarnation* has to read."""
        return self.inbox_prefix + incarnation

    def node_routes(self, incarnation: str) -> str:
        """Set: the names that *incarnation* is routed for."""
        return f"{self.base}of:{incarnation}"

    def node_members(self, incarnation: str) -> str:
        """Set: the members that are connected to *incarnation*."""
        return self.node_members_prefix + incarnation
