"""Which codec the subprotocols of an upgrade request choose."""

import pytest

from gateway.transport.websocket.upgrade import choose_codec
from protocol.codec import JSON, MSGPACK, Codec


@pytest.mark.parametrize(
    ("offered", "codec"),
    [
        ([], JSON),
        (["fanway.v1.json"], JSON),
        (["fanway.v1.msgpack"], MSGPACK),
        (["fanway.v1.msgpack", "fanway.v1.json"], MSGPACK),
        (["unknown", "fanway.v1.json", "fanway.v1.msgpack"], JSON),
        (["unknown"], None),
        (["FANWAY.V1.JSON"], None),
    ],
)
def test_the_first_known_subprotocol_is_chosen_and_json_without_any(
    offered: list[str], codec: Codec | None
) -> None:
    assert choose_codec(offered) is codec
