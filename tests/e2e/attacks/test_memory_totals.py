"""Attacks on each kind of memory that clients can make a node hold, which stays within the sum it promises.

The sum is that of docs/memory.md: what the process takes alone, what the memory broker stores, connections,
and twice `limits.memory`, which is small here.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.e2e.attacks.test_full_sockets import Publisher
from tests.e2e.clients import TEXT, RawConnection, client_frame
from tests.e2e.gateway import KEY, GatewayProcess, gateway_process

MIB = 1024 * 1024
MEMORY = 16 * MIB
CONNECTION_BYTES = 64 * 1024
"""Of a connection with some subscriptions."""
ALLOCATOR_BYTES = 24 * MIB
"""What CPython and malloc keep of memory that was freed."""
LARGE = "x" * 50_000
PATIENT = {
    "OUTBOX__STALL_TIMEOUT": "10m",
    "LISTEN__PUBLIC__USER_TIMEOUT": "10m",
    "HEARTBEAT__INTERVAL": "10m",
}
"""No client is closed for another reason, however slow the machine."""


class AttackedGateway:
    """A gateway with a small `limits.memory`, whose largest size is measured."""

    def __init__(self, process: GatewayProcess, publisher: Publisher) -> None:
        self.process = process
        self.publisher = publisher
        self._before = self._peak_bytes()

    def _peak_bytes(self) -> int:
        """Return the largest resident set size that the process ever had."""
        status = Path(f"/proc/{self.process.popen.pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    async def assert_within_the_promise(self, *, connections: int, stored: int = 0) -> None:
        """Check the size of the process, and every budget."""
        grown = self._peak_bytes() - self._before
        assert grown <= 2 * MEMORY + stored + connections * CONNECTION_BYTES + ALLOCATOR_BYTES, grown / MIB
        metrics = await self.process.metrics()
        for name, limit in metrics.items():
            if name.startswith("memory_") and name.endswith("_limit_bytes"):
                used = metrics[name.replace("_limit_bytes", "_bytes")]
                assert used <= limit, name


@asynccontextmanager
async def attacked(home: Path, **settings: str) -> AsyncIterator[AttackedGateway]:
    """Run a gateway in which everybody may subscribe and publish."""
    rules = {"SUBSCRIBE": "anyone", "PUBLISH": "anyone", "HISTORY": "0"}
    environment = {f"CHANNELS__DEFAULT__{key}": value for key, value in rules.items()}
    environment |= {"LIMITS__MEMORY": str(MEMORY), **PATIENT, **settings}
    with gateway_process(home, dev=True, **environment) as process:
        async with Publisher.open(process.internal) as publisher:
            for number in range(100):
                await publisher.publish("warm-up", f"{number}{LARGE}")
            yield AttackedGateway(process, publisher)


async def subscribed(port: int, channels: Iterable[str], *, receive_buffer: int = 0) -> RawConnection:
    """Return a connection that subscribes to *channels*."""
    raw = await RawConnection.websocket(port, receive_buffer=receive_buffer)
    await raw.call(type="connect", id=1)
    for channel in channels:
        await raw.call(type="subscribe", id=2, channel=channel)
    return raw


async def test_newest_messages_of_many_channels(tmp_path: Path) -> None:
    """Ten connections with 40 channels each, which keep their newest messages though history keeps one."""
    channels = [[f"c{number}-{each}" for each in range(40)] for number in range(10)]
    settings = {"CHANNELS__DEFAULT__HISTORY": "1", "BROKER__MEMORY": "24MiB"}
    async with attacked(tmp_path, **settings) as gateway, AsyncExitStack() as stack:
        clients = [stack.enter_context(await subscribed(gateway.process.public, names)) for names in channels]

        async def publish_to(names: list[str], client: RawConnection) -> None:
            async with Publisher.open(gateway.process.internal) as publisher:
                for name in names:
                    for _ in range(4):
                        await publisher.publish(name, LARGE)
                        assert (await client.receive())["data"] == LARGE

        async with asyncio.TaskGroup() as publishing:
            for names, client in zip(channels, clients, strict=True):
                publishing.create_task(publish_to(names, client))
        await gateway.assert_within_the_promise(connections=10, stored=24 * MIB)
        metrics = await gateway.process.metrics()
        assert metrics["memory_newest_messages_freed_total"] > 0


async def test_outboxes_of_many_clients_that_read_nothing(tmp_path: Path) -> None:
    """A hundred clients, each with a channel of its own; a bystander gets everything, and they a `gap`."""
    async with attacked(tmp_path) as gateway, AsyncExitStack() as stack:
        bystander = stack.enter_context(await subscribed(gateway.process.public, ["quiet"]))
        attackers = [
            stack.enter_context(await subscribed(gateway.process.public, [f"c{number}"], receive_buffer=4096))
            for number in range(100)
        ]
        for number_of_round in range(20):
            for number in range(100):
                await gateway.publisher.publish(f"c{number}", LARGE)
            await gateway.publisher.publish("quiet", number_of_round)
            assert (await bystander.receive())["data"] == number_of_round
        await gateway.assert_within_the_promise(connections=100)
        metrics = await gateway.process.metrics()
        assert metrics["memory_outboxes_freed_total"] > 0
        assert metrics["outbox_dropped_drop_oldest_total"] > 0
        while (push := await attackers[0].receive())["type"] == "message":
            assert push["data"] == LARGE
        assert (push["type"], push["reason"]) == ("gap", "overflow")


async def test_messages_that_are_never_completed(tmp_path: Path) -> None:
    """Three hundred clients send 60 KB of a message and wait; a bystander's messages are complete."""
    part = client_frame(TEXT, b'{"type": "publish", "id": 3, "channel": "a", "data": "' + b"x" * 60_000)
    async with attacked(tmp_path, LIMITS__CONNECTIONS="1000") as gateway, AsyncExitStack() as stack:
        bystander = stack.enter_context(await subscribed(gateway.process.public, ["quiet"]))
        attackers = [stack.enter_context(await subscribed(gateway.process.public, ())) for _ in range(300)]
        for number, attacker in enumerate(attackers):
            await attacker.send(part[:-100])
            if number % 100 == 0:
                await bystander.send_command(type="publish", id=3, channel="quiet", data=LARGE)
                assert {(await bystander.receive())["type"] for _ in range(2)} == {"message", "published"}
        assert (await attackers[0].expect_close()).code == 4008
        await gateway.assert_within_the_promise(connections=300)
        assert (await gateway.process.metrics())["memory_incoming_freed_total"] > 0


async def test_requests_that_are_never_completed(tmp_path: Path) -> None:
    """Sixty requests of backends send 2 MB of a body of 4; others go on, and get 503 if they are large."""
    head = (
        f"POST /v1/batch HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {4 * MIB}\r\n\r\n"
    ).encode()
    async with attacked(tmp_path) as gateway, AsyncExitStack() as stack:
        requests = [
            stack.enter_context(await RawConnection.open(gateway.process.internal)) for _ in range(60)
        ]
        async with asyncio.TaskGroup() as sending:
            for request in requests:
                sending.create_task(request.try_send(head + b" " * 2 * MIB))
        await gateway.publisher.publish("quiet", 1)
        answers = [asyncio.ensure_future(request.read_response()) for request in requests]
        answered, waiting = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        assert {answer.result().status for answer in answered} == {503}
        for answer in waiting:
            answer.cancel()
        await asyncio.wait(answers)
        await gateway.assert_within_the_promise(connections=60)
        assert (await gateway.process.metrics())["memory_bodies_freed_total"] > 0


async def test_idempotency_keys(tmp_path: Path) -> None:
    """Publishes with a new key each are rejected once keys have half of the memory; others go on."""
    async with attacked(tmp_path, BROKER__MEMORY="1MiB") as gateway:
        keys = int((await gateway.process.metrics())["broker_keys_limit"])
        commands = [
            {"publish": {"channel": "c", "data": 1, "key": f"k{number}"}} for number in range(keys + 50)
        ]
        refused = 0
        for start in range(0, len(commands), 500):
            answer = await gateway.process.request(
                "POST", "/v1/batch", {"commands": commands[start : start + 500]}
            )
            refused += sum("error" in result for result in answer.json()["results"])
        assert refused == 50
        assert (await gateway.process.metrics())["broker_keys"] == keys
        await gateway.publisher.publish("c", 2)
