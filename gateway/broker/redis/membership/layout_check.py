"""Whether this node is one of those that run: each of its shards has to take it for one."""

from __future__ import annotations

from gateway.errors import BrokerUnavailable


class LayoutCheck:
    """What a node's shards say of it.

    A node that one shard refuses has other servers than those that run, or in another order. Then the others
    look elsewhere for some of its channels, also where a server that they do not know takes it in: it serves
    none.
    """

    __slots__ = ("_refusals", "fault")

    def __init__(self) -> None:
        self._refusals: dict[object, BrokerUnavailable] = {}
        self.fault: BrokerUnavailable | None = None
        """Why this node serves nothing; None where it may."""

    def refused(self, shard: object, error: BrokerUnavailable) -> None:
        """Hear that *shard* takes this node for a stranger, and what its clients are told."""
        self._refusals[shard] = self.fault = error

    def admitted(self, shard: object) -> None:
        """Hear that *shard* takes it for one of those that run."""
        if self._refusals.pop(shard, None) is not None:
            self.fault = next(iter(self._refusals.values()), None)

    def __repr__(self) -> str:
        return f"<Membership {self.fault or 'undisputed'}>"
