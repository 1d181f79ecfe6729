"""What docs/slow-clients.md says of the four policies, seen by a client that does not read for a while."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from protocol.codec import JSON
from tests.docs.pages import ROOT, Page
from tests.e2e.clients import Client, RawConnection
from tests.e2e.gateway import GatewayProcess, gateway_process

PAGE = Page(ROOT / "docs" / "slow-clients.md")
MESSAGES = 200
CONFIG = """
[channels.default]
subscribe = "anyone"
history = 500

[channels.chat]
on_slow = "catch_up"

[channels.cursor]
on_slow = "conflate"

[channels.log]
on_slow = "drop_oldest"

[channels.book]
on_slow = "disconnect"

[channels.short]
on_slow = "catch_up"
history = 5

[channels.plain]
on_slow = "catch_up"
history = 0

[listen.public]
send_buffer = "16KiB"

[outbox]
size = "128KiB"
high_water = "16KiB"
low_water = "4KiB"

[limits]
message_size = "32KiB"
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("gateway"), CONFIG) as gateway:
        yield gateway


@asynccontextmanager
async def slow(gateway: GatewayProcess, channel: str) -> AsyncIterator[RawConnection]:
    """Yield a client of *channel* that did not read while 200 messages of 4 KiB were published there."""
    with await RawConnection.websocket(gateway.public, receive_buffer=4096) as client:
        await client.call(type="connect", id=1, subs={channel: {}})
        commands = [{"publish": {"channel": channel, "data": [n, "x" * 4096]}} for n in range(MESSAGES)]
        for first in range(0, MESSAGES, 20):
            answer = await gateway.request("POST", "/v1/batch", {"commands": commands[first : first + 20]})
            assert answer.status_code == 200
        yield client


async def received(client: RawConnection) -> list[dict[str, Any]]:
    """Return what *client* reads up to the newest message."""
    pushes: list[dict[str, Any]] = []
    while not pushes or pushes[-1].get("data", [None])[0] != MESSAGES - 1:
        pushes.append(await client.receive())
    return pushes


def numbers(pushes: list[dict[str, Any]]) -> list[int | str]:
    """Return the number of each message, and the word of each `gap`."""
    return [push["data"][0] if push["type"] == "message" else push["reason"] for push in pushes]


async def test_catch_up_delivers_every_message_once(gateway: GatewayProcess) -> None:
    before = await gateway.metrics()
    async with slow(gateway, "chat:slow") as client:
        assert numbers(await received(client)) == list(range(MESSAGES))
    after = await gateway.metrics()
    assert after["outbox_dropped_catch_up_total"] > before["outbox_dropped_catch_up_total"]


@pytest.mark.parametrize(("channel", "policy"), [("cursor:slow", "conflate"), ("log:slow", "drop_oldest")])
async def test_dropped_messages_leave_one_gap_in_their_place(
    gateway: GatewayProcess, channel: str, policy: str
) -> None:
    before = await gateway.metrics()
    async with slow(gateway, channel) as client:
        pushes = await received(client)
    after = await gateway.metrics()
    documented = numbers(pushes)
    gap = documented.index("overflow")
    rest = documented[gap + 1 :]
    assert documented[:gap] == list(range(gap))
    assert rest == list(range(MESSAGES - len(rest), MESSAGES))
    dropped = MESSAGES - gap - len(rest)
    metric = f"outbox_dropped_{policy}_total"
    assert after[metric] - before[metric] == dropped > 0
    assert number_in(pushes[gap]["position"]) == number_in(pushes[gap + 1]["message"]) - 1


async def test_disconnect_ends_with_4006_and_the_client_resumes(gateway: GatewayProcess) -> None:
    async with slow(gateway, "book:slow") as client:
        last = (await client.receive())["message"]
        frames, closed = await client.read_until_close()
    assert closed.code == 4006
    last = [JSON.decode_server_message(frame.payload) for frame in frames][-1].message  # type: ignore[union-attr]
    async with Client.open(gateway.public, subs={"book:slow": {"since": str(last)}}) as returned:
        restored = returned.connected["subs"]["book:slow"]
        assert restored["recovered"]
        missed = numbers(restored["messages"])
        while not missed or missed[-1] != MESSAGES - 1:
            missed += numbers([await returned.next_push("message")])
        assert missed == list(range(number_in(str(last)), MESSAGES))


async def test_too_short_history_leaves_a_gap(gateway: GatewayProcess) -> None:
    async with slow(gateway, "short:slow") as client:
        pushes = await received_up_to_live(gateway, client, "short:slow")
    assert "trimmed" in numbers(pushes)


async def test_without_history_catch_up_drops_the_oldest(gateway: GatewayProcess) -> None:
    async with slow(gateway, "plain:slow") as client:
        pushes = await received(client)
    gap = numbers(pushes).index("overflow")
    assert "position" not in pushes[gap]


async def received_up_to_live(
    gateway: GatewayProcess, client: RawConnection, channel: str
) -> list[dict[str, Any]]:
    """Return what *client* reads up to a `gap`, after which there is nothing left but what comes live."""
    pushes: list[dict[str, Any]] = []
    while not pushes or pushes[-1]["type"] != "gap":
        pushes.append(await client.receive())
    await gateway.request("POST", "/v1/publish", {"channel": channel, "data": ["live"]})
    pushes.append(await client.receive())
    assert pushes[-1]["data"] == ["live"]
    return pushes


def number_in(position: str) -> int:
    return int(position.partition("-")[0])


def test_the_examples_are_pushes_of_the_protocol() -> None:
    for block in PAGE.blocks:
        if block.language == "json":
            JSON.decode_server_message(block.text.encode())


def test_every_policy_has_its_row_and_its_section() -> None:
    policies = [row[0].strip("`") for row in PAGE.table("## The four policies")]
    assert policies == ["catch_up", "conflate", "drop_oldest", "disconnect"]
    assert set(policies) <= {anchor.replace("-", "_") for anchor in PAGE.anchors()}
