"""The push API as Java's own HTTP client uses it, which offers HTTP/2 by an upgrade in each request."""

import asyncio
import time
from pathlib import Path

import orjson

from tests.e2e.clients import Client
from tests.e2e.gateway import gateway_on_loop, token

SOURCE = Path(__file__).parent / "java" / "Client.java"


async def post(port: int, *requests: tuple[str, object]) -> list[str]:
    """Return the answers to POST requests that one Java client makes, each as status and body."""
    arguments = [
        part
        for path, body in requests
        for part in (f"http://127.0.0.1:{port}{path}", orjson.dumps(body).decode())
    ]
    process = await asyncio.create_subprocess_exec(
        "java",
        "-XX:TieredStopAtLevel=1",
        str(SOURCE),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode().splitlines()


async def test_java_publishes_and_disconnects_whom_it_names(tmp_path: Path) -> None:
    ann = token("ann", now=time.time())
    async with (
        gateway_on_loop(tmp_path) as gateway,
        Client.open(gateway.public, token=ann, subs={"news": {}}) as kept,
        Client.open(gateway.public, token=ann) as closed,
    ):
        published, large, disconnected = await post(
            gateway.internal,
            ("/v1/publish", {"channel": "news", "data": "one"}),
            ("/v1/publish", {"channel": "news", "data": "x" * 60_000}),
            ("/v1/users/ann/disconnect", {"except": [kept.connected["connection"]]}),
        )
        assert (published[:4], large[:4]) == ("200 ", "200 ")
        assert disconnected == '200 {"connections":1}'
        assert (await closed.expect_close()).code == 4005
        assert [(await kept.next_push("message"))["data"] for _ in range(2)] == ["one", "x" * 60_000]
        assert (await kept.call("ping"))["type"] == "pong"
