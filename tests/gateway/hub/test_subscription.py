from gateway.hub.subscription import Subscription
from protocol.codec import JSON, MSGPACK, Codec
from protocol.messages import Gap
from tests.gateway.delivery.queue_items import decode_all, message_id
from tests.gateway.node import Node, running_node
from tests.gateway.virtual_time import on_virtual_time


async def subscription(node: Node, channel: str, codec: Codec = JSON) -> Subscription:
    client = await node.connect(codec)
    await client.subscribe(channel)
    return client.session.subscriptions[channel]


@on_virtual_time
async def test_a_gap_frame_is_in_the_codec_of_the_connection() -> None:
    async with running_node() as node:
        text, binary = await subscription(node, "h:a"), await subscription(node, "h:a", MSGPACK)
        assert decode_all([text.gap_frame(message_id(3))]) == [Gap("h:a", "overflow", message_id(3))]
        assert MSGPACK.decode_server_message(binary.gap_frame(None, "trimmed")[2:]) == Gap(
            "h:a", "trimmed", None
        )


@on_virtual_time
async def test_the_overflow_policy_is_that_of_the_namespace() -> None:
    async with running_node() as node:
        assert (await subscription(node, "newest:a")).on_slow == "conflate"
        assert (await subscription(node, "h:a")).on_slow == "catch_up"
        assert (await subscription(node, "p:a")).on_slow == "drop_oldest"


@on_virtual_time
async def test_a_live_subscription_is_no_longer_behind() -> None:
    async with running_node() as node:
        client = await node.connect()
        await client.subscribe("h:a")
        session, live = client.session, client.session.subscriptions["h:a"]
        session.on_fell_behind(live, message_id(3))
        live.missed_unnumbered = True
        session.on_fell_behind(live, message_id(4))
        assert node.hub.statistics()["behind"] == 1
        session.on_fell_behind(live, message_id(3))
        assert (repr(live), session.behind) == ("<Subscription h:a behind at 3-u3>", {live: None})
        live.go_live()
        live.go_live()
        assert (repr(live), session.behind) == ("<Subscription h:a live>", {})
        assert node.hub.statistics()["behind"] == 0
        assert (live.behind, live.missed_unnumbered) == (None, False)
