"""Whether this node takes new clients: the admission of upgrade requests, and readiness."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gateway.access.admission import Admission
from gateway.access.client_address import Network, client_address
from gateway.access.origins import origin_allowed
from gateway.errors import Rejection
from gateway.transport.websocket.upgrade import UpgradeRequest
from protocol.errors import ErrorCode

MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 1, 5
"""Bounds of Retry-After, which is random: rejected clients that all return at once overload the next node."""


class UpgradeGate:
    """Decides about each upgrade request; its call is the `Gate` of `gateway.transport.websocket.upgrade`."""

    def __init__(
        self,
        admission: Admission,
        *,
        broker_ready: Callable[[], bool],
        allowed_origins: frozenset[str],
        trusted_proxies: Sequence[Network],
        allow_loopback: bool,
        on_origin_refused: Callable[[str, str | None, str], None],
    ) -> None:
        """Admit by these rules.

        Args:
            admission: counts the connections; its `overloaded` makes the node not ready.
            broker_ready: whether the broker accepts publishes.
            allowed_origins: pages that may connect (docs/security.md#origins).
            trusted_proxies: networks whose X-Forwarded-For is believed.
            allow_loopback: whether pages of this machine may connect, as in dev mode.
            on_origin_refused: called with the origin, the Host header and the client's address.

        """
        self._admission = admission
        self._broker_ready = broker_ready
        self._allowed_origins = allowed_origins
        self._trusted_proxies = trusted_proxies
        self._allow_loopback = allow_loopback
        self._on_origin_refused = on_origin_refused
        self.draining = False
        """Set to reject all further clients."""

    def __call__(self, request: UpgradeRequest) -> Rejection | Callable[[], None]:
        """Return a callable that releases the client's place, or why it gets none."""
        if self.draining:
            return _unavailable("this node drains: connect to another")
        if not self._broker_ready():
            return _unavailable("this node does not reach its broker")
        origins = self._allowed_origins
        if not origin_allowed(request.origin, request.host, origins, loopback=self._allow_loopback):
            self._on_origin_refused(request.origin or "", request.host, self.client_address(request))
            return Rejection(
                ErrorCode.PERMISSION_DENIED, "this page's origin is not in listen.public.allowed_origins"
            )
        admitted = self._admission.admit_upgrade(self.client_address(request))
        return admitted if isinstance(admitted, Rejection) else admitted.release

    def client_address(self, request: UpgradeRequest) -> str:
        """Return the address that the client's connections and commands count for."""
        if not self._trusted_proxies:
            return request.peer
        return client_address(request.peer, request.forwarded_for, self._trusted_proxies)

    def problems(self) -> list[str]:
        """Return why this node is not ready, for `/readyz`; empty where it is."""
        problems = {
            "draining": self.draining,
            "the broker takes no publishes": not self._broker_ready(),
            "the event loop lags": self._admission.overloaded,
        }
        return [problem for problem, present in problems.items() if present]


def _unavailable(message: str) -> Rejection:
    retry_after = float(random.randint(MIN_RETRY_SECONDS, MAX_RETRY_SECONDS))
    return Rejection(ErrorCode.UNAVAILABLE, message, retry_after)
