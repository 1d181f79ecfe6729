"""What a broker tells while some of those that know it are away: one of several servers, or a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from gateway.errors import GatewayError

T = TypeVar("T")


class PartialResult(list[T]):
    """What is known without those that do not answer."""

    def __init__(
        self, known: Iterable[T], error: GatewayError, lacks: Callable[[str], bool] = lambda _: False
    ) -> None:
        """Tell what is *known*; *lacks* says whether nothing at all is known of a name, and *error* why."""
        super().__init__(known)
        self.error = error
        self.lacks = lacks
