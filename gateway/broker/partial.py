"""What a broker of several servers tells while some of them are away."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.broker.base import ChannelRecord
from gateway.errors import GatewayError


class Partial(list[ChannelRecord]):
    """Followed channels, but for those of a server that does not answer."""

    def __init__(
        self, records: Iterable[ChannelRecord], error: GatewayError, lacks: Callable[[str], bool]
    ) -> None:
        """Tell *records*; *lacks* says whether a channel would be missing, and *error* why."""
        super().__init__(records)
        self.error = error
        self.lacks = lacks
