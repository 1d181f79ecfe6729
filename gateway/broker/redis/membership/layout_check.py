"""Whether this node has the same servers and shards as the running nodes; every shard has to accept it."""

from __future__ import annotations

from gateway.errors import BrokerUnavailable


class LayoutCheck:
    """Collects the results of the leases of a node's shards; shared by all shards of the node.

    If one shard rejects a node, the node has other servers than the running nodes, or another order of
    servers: it looks for some channels on other shards than the running nodes do. So it serves no channel at
    all, not even the channels of shards that accept it: such a shard may be on a server that the running
    nodes do not use.
    """

    __slots__ = ("_rejections", "error")

    def __init__(self) -> None:
        self._rejections: dict[object, BrokerUnavailable] = {}
        self.error: BrokerUnavailable | None = None
        """Why this node may not serve any channel; None if it may."""

    def reject(self, lease: object, error: BrokerUnavailable) -> None:
        """Note that Redis rejected the layout of *lease*; *error* is what callers get."""
        self._rejections[lease] = self.error = error

    def accept(self, lease: object) -> None:
        """Note that Redis accepted the layout of *lease*."""
        if self._rejections.pop(lease, None) is not None:
            self.error = next(iter(self._rejections.values()), None)

    def __repr__(self) -> str:
        return f"<LayoutCheck {self.error or 'accepted'}>"
