from tests.gateway.life import life
from tests.gateway.standing import quiet, standing


@standing
async def test_smoke() -> None:
    async with life() as node:
        ann, bob = await node.client(user="ann"), await node.client()
        assert ann.welcome.user == "ann"
        reply = await ann.follow("h:a")
        assert reply.messages == ()
        await bob.follow("h:a")
        await node.publish("h:a", 1, 2, 3)
        await quiet()
        assert ann.got() == bob.got() == [1, 2, 3]
