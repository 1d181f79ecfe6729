"""Whether this node has the same servers and shards as the running nodes: every shard has to agree."""

from __future__ import annotations

from gateway.errors import BrokerUnavailable


class LayoutCheck:
    """Collects what the leases of a node's shards find out; shared by all shards of a node.

    A node that one shard rejects has other servers than the running nodes, or in another order: the other
    nodes look for some channels on other shards than it does. So it serves no channel at all, not even those
    of a shard that accepts it, which may be on a server that the others do not use.
    """

    __slots__ = ("_rejections", "error")

    def __init__(self) -> None:
        self._rejections: dict[object, BrokerUnavailable] = {}
        self.error: BrokerUnavailable | None = None
        """Why this node may not serve; None if it may."""

    def reject(self, lease: object, error: BrokerUnavailable) -> None:
        """Note that the running nodes have another layout than *lease* has here; *error* is for clients."""
        self._rejections[lease] = self.error = error

    def accept(self, lease: object) -> None:
        """Note that *lease* has the layout of the running nodes."""
        if self._rejections.pop(lease, None) is not None:
            self.error = next(iter(self._rejections.values()), None)

    def __repr__(self) -> str:
        return f"<LayoutCheck {self.error or 'accepted'}>"
