"""Handshakes that the application fails to answer: the client still gets an error of the protocol."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
import pytest

from gateway.runtime.listeners import Binding, Listener
from gateway.tasks import Tasks
from gateway.transport.public_http import HttpOptions, PublicHttp
from tests.e2e.clients import RawConnection, Response, upgrade_request
from tests.e2e.gateway import serving_listener

App = Callable[[Any, Any, Any], Awaitable[None]]


async def fails(_: Any, __: Any, ___: Any) -> None:
    raise RuntimeError("a bug with a secret in it")


async def forgets(_: Any, __: Any, ___: Any) -> None:
    """Return without an answer."""


async def closes(_: Any, __: Any, send: Any) -> None:
    await send({"type": "websocket.close", "code": 1000})


@asynccontextmanager
async def listener(app: App) -> AsyncIterator[tuple[Listener, int]]:
    tasks = Tasks(lambda error: pytest.fail(repr(error)))
    http = partial(PublicHttp, tasks=tasks, options=HttpOptions())
    serving = Listener(app, Binding("127.0.0.1", 0), http=http)
    async with serving_listener(serving) as port:
        yield serving, port
    await tasks.close()


async def send_upgrade(raw: RawConnection) -> Response:
    await raw.send(upgrade_request())
    return await raw.read_response()


@pytest.mark.parametrize(
    ("app", "status", "code"),
    [(fails, 500, "internal"), (forgets, 500, "internal"), (closes, 403, "permission_denied")],
)
async def test_rejected_handshake_has_an_error_of_the_protocol_as_body(
    app: App, status: int, code: str
) -> None:
    async with listener(app) as (_, port):
        with await RawConnection.open(port) as raw:
            answer = await send_upgrade(raw)
            assert await raw.read_to_end() == b""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert orjson.loads(answer.body)["error"]["code"] == code
    assert b"secret" not in answer.body


async def test_pending_handshake_gets_retry_after_when_the_node_stops() -> None:
    asked = asyncio.Event()

    async def ponders(_: Any, __: Any, ___: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with listener(ponders) as (serving, port):
        with await RawConnection.open(port) as raw:
            answering = asyncio.ensure_future(send_upgrade(raw))
            await asked.wait()
            serving.stop()
            answer = await answering
            error = orjson.loads(answer.body)["error"]
            assert (answer.status, error["code"]) == (503, "unavailable")
            assert error["retry_after_ms"] == 1_000 * int(answer.headers["retry-after"])
            assert await raw.read_to_end() == b""
