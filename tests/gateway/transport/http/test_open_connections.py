import asyncio
from collections.abc import Callable

import pytest

from gateway.transport.http.open_connections import (
    INTERNAL_STAGES,
    PUBLIC_STAGES,
    Bound,
    ConnectionBounds,
    ConnectionStage,
    OpenConnections,
)

SILENT, CLOSING, ACTIVE = ConnectionStage.SILENT, ConnectionStage.CLOSING, ConnectionStage.ACTIVE
UPGRADED, CONNECTED = ConnectionStage.UPGRADED, ConnectionStage.CONNECTED


class Backend(asyncio.Protocol):
    """What the internal listener's protocol says of itself."""

    def __init__(self, *, is_idle: bool, is_receiving: bool = False) -> None:
        self.is_idle = is_idle
        self.is_receiving = is_receiving


class Socket(asyncio.Transport):
    """A transport that is aborted at once, as asyncio's is in the next turn."""

    def __init__(self, connections: OpenConnections) -> None:
        super().__init__()
        self.aborted = False
        self._connections = connections
        self._protocol: asyncio.BaseProtocol = asyncio.Protocol()

    def abort(self) -> None:
        self.aborted = True

    def lose(self) -> None:
        """As asyncio does after `abort`: the protocol's `connection_lost` is called."""
        self._connections.closed(self)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol


class Listener:
    """Opens connections, and records which bounds were reached."""

    def __init__(
        self,
        total: int = 100,
        unconnected: int = 100,
        per_address: int = 0,
        *,
        stages: tuple[ConnectionStage, ...] = PUBLIC_STAGES,
        source_of: Callable[[str], str] = str,
    ) -> None:
        self.reached: list[tuple[Bound, str, int]] = []
        bounds = ConnectionBounds(total, unconnected, per_address)

        def reached(*what: object) -> None:
            self.reached.append(what)  # type: ignore[arg-type]

        self.connections = OpenConnections(
            bounds, stages=stages, source_of=source_of, on_bound_reached=reached
        )

    def open(self, address: str = "a", stage: ConnectionStage = SILENT) -> Socket:
        socket = Socket(self.connections)
        self.connections.opened(socket, address)
        if stage is not SILENT:
            self.connections.enter(stage, socket)
        return socket

    def statistic(self, name: str) -> int:
        return self.connections.statistics()[name]


@pytest.mark.parametrize(
    ("bounds", "connected", "unconnected", "of_address", "bound"),
    [
        ((10, 4, 0), 0, 3, 0, None),
        ((10, 4, 0), 0, 4, 0, "unconnected"),
        ((10, 4, 0), 0, 4, 2, "address"),
        ((10, 4, 0), 8, 2, 0, "total"),
        ((10, 4, 0), 8, 1, 0, None),
        ((10, 4, 0), 0, 2, 2, "address"),
        ((10, 4, 3), 0, 2, 2, None),
        ((10, 4, 3), 0, 3, 3, "address"),
        ((10, 4, 0), 9, 0, 0, None),
        ((10, 4, 0), 10, 0, 0, "total"),
        ((10, 4, 0), 11, 0, 0, "total"),
    ],
)
def test_which_bound_a_new_connection_exceeds(
    bounds: tuple[int, int, int], connected: int, unconnected: int, of_address: int, bound: Bound | None
) -> None:
    exceeded = ConnectionBounds(*bounds).exceeded(
        connected=connected, unconnected=unconnected, of_address=of_address
    )
    assert exceeded == bound


def test_the_oldest_silent_one_is_closed_first_then_closing_then_upgraded_ones() -> None:
    listener = Listener(unconnected=4, per_address=5)
    upgraded = listener.open(stage=UPGRADED)
    closing = listener.open(stage=CLOSING)
    silent = [listener.open(), listener.open()]
    newest = [listener.open(stage=UPGRADED) for _ in range(4)]
    assert [each.aborted for each in (*silent, closing, upgraded)] == [True] * 4
    assert [each.aborted for each in newest] == [False] * 4
    figures = [listener.statistic(f"closed_{stage}") for stage in (SILENT, CLOSING, UPGRADED)]
    assert figures == [2, 1, 1]
    assert listener.reached == [("unconnected", "a", 3)] * 4


def test_newcomers_are_not_closed_because_others_fill_a_later_stage() -> None:
    listener = Listener(unconnected=16, per_address=99)
    upgraded = [listener.open(stage=UPGRADED) for _ in range(16)]
    newcomers = [listener.open() for _ in range(2)]
    upgraded += [listener.open(stage=UPGRADED) for _ in range(20)]
    assert not any(each.aborted for each in newcomers)
    assert [each.aborted for each in upgraded] == [True] * 22 + [False] * 14


def test_a_connected_one_is_never_closed() -> None:
    listener = Listener(total=3)
    connected = [listener.open(stage=CONNECTED) for _ in range(3)]
    newcomer = listener.open()
    assert newcomer.aborted
    assert not any(each.aborted for each in connected)
    assert listener.statistic("rejected") == 1
    newcomer.lose()
    connected[0].lose()
    assert not listener.open().aborted
    assert listener.connections.statistics() == {
        "silent": 1,
        "closing": 0,
        "upgraded": 0,
        "connected": 2,
        "closed_silent": 0,
        "closed_closing": 0,
        "closed_upgraded": 0,
        "rejected": 1,
        "proxy_headers_refused": 0,
        "fragments_delayed": 0,
    }


def test_an_address_displaces_its_own_connections_only() -> None:
    listener = Listener(unconnected=6)
    others = [listener.open("b") for _ in range(3)]
    own = [listener.open("a") for _ in range(3)]
    assert not listener.open("a").aborted
    assert [each.aborted for each in own] == [True, False, False]
    assert not any(each.aborted for each in others)
    assert listener.reached == [("address", "a", 5)]


def test_an_address_may_have_as_many_connected_ones_as_there_is_room() -> None:
    listener = Listener(total=20, per_address=2)
    sockets = [listener.open("a", stage=CONNECTED) for _ in range(18)]
    assert not any(each.aborted for each in sockets)
    assert listener.reached == []


def test_addresses_without_a_source_have_no_bound_of_their_own() -> None:
    listener = Listener(unconnected=6, per_address=1, source_of=lambda _: "")
    assert not any(listener.open("proxy").aborted for _ in range(6))
    assert listener.reached == []


def test_a_connection_counts_for_the_address_that_a_proxy_reports() -> None:
    listener = Listener(per_address=1, source_of=lambda address: address.strip("proxy"))
    first, second = listener.open("proxy"), listener.open("proxy")
    assert listener.connections.change_address(first, "a")
    assert listener.connections.change_address(second, "a")
    assert (first.aborted, second.aborted) == (True, False)
    assert not listener.connections.change_address(first, "b"), "it is closed already"


def test_a_connection_that_was_aborted_is_counted_no_more() -> None:
    listener = Listener(unconnected=1, per_address=1)
    first = listener.open()
    second = listener.open()
    assert first.aborted
    listener.connections.enter(UPGRADED, first)
    assert listener.connections.count == 1
    first.lose()
    assert listener.connections.count == 1
    second.lose()
    assert listener.connections.count == 0


def test_of_backends_the_idle_ones_are_closed_then_those_with_an_incomplete_request() -> None:
    listener = Listener(total=3, stages=INTERNAL_STAGES, source_of=lambda _: "")
    answering, receiving, idle = (listener.open(stage=ACTIVE) for _ in range(3))
    answering.set_protocol(Backend(is_idle=False))
    receiving.set_protocol(Backend(is_idle=False, is_receiving=True))
    idle.set_protocol(Backend(is_idle=True))
    for expected in ([False, False, True], [False, True, True]):
        listener.open(stage=ACTIVE).set_protocol(Backend(is_idle=False))
        assert [each.aborted for each in (answering, receiving, idle)] == expected
    assert listener.open().aborted
    assert not answering.aborted
