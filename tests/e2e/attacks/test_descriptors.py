"""Strangers with idle connections take no descriptor from anybody else: few descriptors, many connections."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.broker.redis_server import running_redis
from tests.e2e.clients import Client, RawConnection, upgrade_request
from tests.e2e.gateway import TIMEOUT_SECONDS, GatewayProcess, gateway_process, publish, request

DESCRIPTORS = 300
IDLE = 320
"""Idle connections: more than there are descriptors."""


@contextmanager
def idle_connections(port: int, *, addresses: int, data: bytes = b"") -> Iterator[None]:
    """Open `IDLE` connections from so many addresses of this machine; each sends *data*, and nothing more."""
    with ExitStack() as stack:
        for number in range(IDLE):
            source = f"127.0.1.{number % addresses + 1}", 0
            idle = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS, source)
            stack.enter_context(idle)
            idle.sendall(data)
        yield


async def assert_everybody_is_served(gateway: GatewayProcess, bystander: Client) -> None:
    """Check all that strangers must not take: probes, metrics, publishes, upgrades, connected clients."""
    assert (await request(gateway.internal, "GET", "/readyz")).status_code == 200
    await publish(gateway.internal, "calm", "meanwhile")
    async with Client.open(gateway.public) as newcomer:
        assert (await newcomer.call("ping"))["type"] == "pong"
        assert (await newcomer.call("subscribe", channel="calm"))["type"] == "subscribed"
        await publish(gateway.internal, "calm", "last")
        assert (await newcomer.next_push("message"))["data"] == "last"
    assert (await bystander.next_push("message"))["data"] == "meanwhile"
    assert (await bystander.next_push("message"))["data"] == "last"
    assert (await gateway.metrics())["hub_sessions"] >= 1


ATTACKS = {
    "silent": b"",
    "half a head": b"GET /v1/ws HTTP/1.1\r\nhost: a\r\n",
    "no connect": upgrade_request(),
}


@pytest.mark.parametrize("addresses", [1, 200])
@pytest.mark.parametrize("what", ATTACKS)
async def test_idle_clients_take_no_descriptor_of_others(what: str, addresses: int, tmp_path: Path) -> None:
    with gateway_process(tmp_path, descriptors=DESCRIPTORS) as gateway:
        async with Client.open(gateway.public) as bystander:
            await bystander.call("subscribe", channel="calm")
            with idle_connections(gateway.public, addresses=addresses, data=ATTACKS[what]):
                await assert_everybody_is_served(gateway, bystander)
                figures = await gateway.metrics()
                stage = "upgraded" if what == "no connect" else "silent"
                assert figures[f"public_connections_closed_{stage}_total"] > 0
                assert figures["public_connections_connected"] == 1
        log = await gateway.log_with(f'"bound": "{"address" if addresses == 1 else "total"}"')
        assert "enough for 175 clients" in log
        assert log.count("connections exhausted") <= 10, "a few lines a minute"


async def test_idle_backends_take_no_descriptor_of_others(tmp_path: Path) -> None:
    request_head = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with gateway_process(tmp_path, descriptors=DESCRIPTORS) as gateway:
        async with Client.open(gateway.public) as bystander:
            await bystander.call("subscribe", channel="calm")
            for data in (b"", request_head):
                with idle_connections(gateway.internal, addresses=1, data=data):
                    await assert_everybody_is_served(gateway, bystander)
            figures = await gateway.metrics()
            assert figures["internal_connections_closed_silent_total"] > 0
            assert figures["internal_connections_closed_active_total"] > 0
        await gateway.log_with('"listener": "internal"')


async def test_idle_clients_of_several_workers_take_no_descriptor_of_others(tmp_path: Path) -> None:
    with (
        running_redis(tmp_path) as redis,
        gateway_process(
            tmp_path,
            descriptors=DESCRIPTORS,
            NODE__WORKERS="2",
            BROKER__KIND="redis",
            BROKER__URL=redis.url,
            DRAIN__WINDOW="0s",
        ) as gateway,
    ):
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(idle_connections(gateway.public, addresses=200))
            for _ in range(8):  # whichever worker takes each
                assert (await request(gateway.internal, "GET", "/readyz")).status_code == 200
                assert (await request(gateway.internal, "GET", "/metrics")).status_code == 200
                await publish(gateway.internal, "calm", "meanwhile")
                async with Client.open(gateway.public) as newcomer:
                    assert (await newcomer.call("ping"))["type"] == "pong"
        await gateway.log_with("connections exhausted")


async def test_a_process_without_descriptors_recovers(tmp_path: Path) -> None:
    """As after a leak in something else: until there are some again, connected clients are served."""
    with gateway_process(tmp_path) as gateway:
        pid = gateway.popen.pid
        async with Client.open(gateway.public) as bystander:
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
            with await RawConnection.open(gateway.public) as waiting:
                await waiting.send(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
                await gateway.log_with("cannot accept connections")
                assert (await bystander.call("ping"))["type"] == "pong"
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
                assert (await waiting.read_response()).status == 200
        assert gateway.stderr.count("cannot accept connections") <= 5, "a few lines a minute"
