"""Which upgrade requests a node rejects, with which code, and when it is not ready."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest

from gateway.access.admission import Admission, AdmissionLimits
from gateway.errors import Rejection
from gateway.runtime.upgrade_gate import MAX_RETRY_SECONDS, MIN_RETRY_SECONDS, UpgradeGate
from gateway.transport.websocket.upgrade import UpgradeRequest
from protocol.errors import ErrorCode

APP = "https://app.example.com"
PROXY = "10.0.0.1"


@dataclass
class Node:
    """A gate, and the state of the node that it looks at."""

    broker_ready: bool = True
    refused_origins: list[tuple[str, str | None, str]] = field(default_factory=list)
    admission: Admission = field(default_factory=lambda: Admission(AdmissionLimits(per_address=1)))

    def gate(self) -> UpgradeGate:
        return UpgradeGate(
            self.admission,
            broker_ready=lambda: self.broker_ready,
            allowed_origins=frozenset({APP}),
            trusted_proxies=[ip_network("10.0.0.0/8")],
            allow_loopback=False,
            on_origin_refused=lambda *refused: self.refused_origins.append(refused),
        )


def request(
    peer: str = "192.0.2.1", *, origin: str | None = None, forwarded_for: tuple[str, ...] = ()
) -> UpgradeRequest:
    return UpgradeRequest(peer=peer, forwarded_for=forwarded_for, origin=origin, host=None, token=None)


async def test_an_admitted_client_has_a_place_until_it_is_released() -> None:
    node = Node()
    release = node.gate()(request(origin=APP))
    assert not isinstance(release, Rejection)
    assert node.admission.statistics()["addresses"] == 1
    release()
    assert node.admission.statistics()["addresses"] == 0


@pytest.mark.parametrize("problem", ["draining", "the broker takes no publishes"])
async def test_a_node_that_is_not_ready_rejects_with_a_random_retry_after(problem: str) -> None:
    node = Node(broker_ready=problem == "draining")
    gate = node.gate()
    gate.draining = problem == "draining"
    assert gate.problems() == [problem]
    rejections = [gate(request()) for _ in range(100)]
    assert all(isinstance(each, Rejection) and each.code is ErrorCode.UNAVAILABLE for each in rejections)
    waits = {each.retry_after for each in rejections if isinstance(each, Rejection)}
    assert len(waits) > 1
    assert waits <= {float(seconds) for seconds in range(MIN_RETRY_SECONDS, MAX_RETRY_SECONDS + 1)}
    assert node.admission.statistics()["addresses"] == 0


async def test_a_page_of_another_origin_is_rejected_for_good() -> None:
    node = Node()
    rejection = node.gate()(
        request(PROXY, origin="https://evil.example.com", forwarded_for=("198.51.100.1",))
    )
    assert node.refused_origins == [("https://evil.example.com", None, "198.51.100.1")]
    assert isinstance(rejection, Rejection)
    assert (rejection.code, rejection.retry_after) == (ErrorCode.PERMISSION_DENIED, None)
    assert "listen.public.allowed_origins" in rejection.message


async def test_connections_are_counted_by_the_address_that_a_trusted_proxy_reports() -> None:
    gate = Node().gate()
    assert not isinstance(gate(request(PROXY, forwarded_for=("198.51.100.1",))), Rejection)
    assert not isinstance(gate(request(PROXY, forwarded_for=("198.51.100.2",))), Rejection)
    again = gate(request(PROXY, forwarded_for=("198.51.100.1",)))
    assert isinstance(again, Rejection)
    assert again.code is ErrorCode.LIMIT_EXCEEDED


async def test_an_address_that_an_untrusted_client_reports_is_ignored() -> None:
    gate = Node().gate()
    assert not isinstance(gate(request("192.0.2.1", forwarded_for=("198.51.100.1",))), Rejection)
    again = gate(request("192.0.2.1", forwarded_for=("198.51.100.2",)))
    assert isinstance(again, Rejection)
    assert again.code is ErrorCode.LIMIT_EXCEEDED


async def test_an_overloaded_node_is_not_ready_and_rejects() -> None:
    node = Node()
    gate = node.gate()
    assert gate.problems() == []
    node.admission.overloaded = True
    assert gate.problems() == ["the event loop lags"]
    rejection = gate(request())
    assert isinstance(rejection, Rejection)
    assert rejection.code is ErrorCode.UNAVAILABLE
