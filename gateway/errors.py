"""What may go wrong inside a gateway, beside what a client did wrong (`protocol.errors`)."""

from __future__ import annotations


class GatewayError(Exception):
    """The root of what this package raises on purpose."""

    def __init__(self, kind: str, *, details: str = "") -> None:
        """Say what *kind* of error it is, and in brackets *details*, which may differ from time to time."""
        super().__init__(f"{kind} ({details})" if details else kind)
        self.kind = kind
        self.details = details


class BrokerUnavailable(GatewayError):
    """The broker cannot take it now; nothing was promised, and the same again may succeed."""

    def __init__(self, kind: str, *, details: str = "", retry_after: float = 1.0) -> None:
        """Tell to try again after *retry_after* seconds."""
        super().__init__(kind, details=details)
        self.retry_after = retry_after


class BrokerFull(GatewayError):
    """The broker has no memory left for what it was to keep."""
