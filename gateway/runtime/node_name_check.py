"""A warning when two live nodes have the same name (docs/operations.md#names-of-nodes)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from gateway.broker.base import NodeRecord
from gateway.clock import Scheduler, Timer
from gateway.errors import GatewayError
from gateway.tasks import Tasks


class NodeNameCheck:
    """Checks once, after a delay, whether another live node has the name of this one."""

    def __init__(
        self,
        name: str,
        list_nodes: Callable[[], Awaitable[Iterable[NodeRecord]]],
        *,
        scheduler: Scheduler,
        tasks: Tasks,
        delay: float,
        on_duplicate: Callable[[], object],
    ) -> None:
        """Call *on_duplicate* if two of the live nodes, which *list_nodes* returns, have the *name*.

        *delay*, in seconds, should be that of the lease: by then, a crashed node that this one replaces has
        lost its lease. The check is repeated after the same delay while the broker cannot be reached.
        """
        self._name = name
        self._list_nodes = list_nodes
        self._scheduler = scheduler
        self._tasks = tasks
        self._delay = delay
        self._on_duplicate = on_duplicate
        self._timer: Timer | None = None

    def start(self) -> None:
        """Schedule the check."""
        self._timer = self._scheduler.call_later(self._delay, lambda: self._tasks.spawn(self._check()))

    def close(self) -> None:
        """Cancel the check, if it has not started."""
        if self._timer is not None:
            self._timer.cancel()

    async def _check(self) -> None:
        try:
            nodes = await self._list_nodes()
        except GatewayError:
            self.start()
            return
        if sum(each.node == self._name for each in nodes) > 1:
            self._on_duplicate()
