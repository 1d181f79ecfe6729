"""The helpers for FastAPI: an application on uvicorn, a gateway, and a client with a token of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import httpx
import pytest
import uvicorn
from fanway_client import Fanway, FanwayError, UnauthorizedError
from fanway_client.admin import AsyncFanwayAdmin
from fanway_client.fastapi import WEBHOOK_BYTES, FanwayBackend, TokenUser
from fanway_client.webhooks import sign_webhook
from fastapi import Depends, FastAPI, Header, HTTPException
from standardwebhooks import Webhook

from tests.clients.python.test_gateway import fresh, public
from tests.e2e.gateway import KEY, SECRET, GatewayProcess

OLD, NEW = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Server(uvicorn.Server):
    """Serves on the running loop, and says when; the signals are pytest's."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
        self.listening = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Serve *app*; yields an HTTP client of it."""
    server = Server(app)
    task = asyncio.create_task(server.serve())
    await server.listening.wait()
    host, port = server.servers[0].sockets[0].getsockname()
    try:
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        await task


def current_user(x_user: Annotated[str, Header()] = "") -> str | TokenUser:
    """The application's own dependency: here the user is what a header says."""
    if not x_user:
        raise HTTPException(401, "log in first")
    return TokenUser(x_user, info={"vip": True}) if x_user == "zoe" else x_user


class Application:
    """A FastAPI application as its user writes it, and what its webhook got."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.events: list[Any] = []
        self.fanway = FanwayBackend(
            f"http://127.0.0.1:{gateway.internal}", KEY, secret=SECRET, webhook_secrets=[NEW, OLD]
        )
        self.app = FastAPI(lifespan=self.fanway.lifespan)
        self.app.include_router(self.fanway.token_router(current_user, ttl=600))

        @self.app.post("/orders/{order}/pay")
        async def pay(
            order: str, fanway: Annotated[AsyncFanwayAdmin, Depends(self.fanway.admin)]
        ) -> dict[str, Any]:
            return await fanway.publish(order, {"paid": True})

        @self.app.post("/fanway/events", status_code=204)
        def events(payload: Annotated[Any, Depends(self.fanway.webhook)]) -> None:
            self.events.append(payload)


@pytest.fixture
def application(gateway: GatewayProcess) -> Application:
    return Application(gateway)


async def test_a_user_who_is_logged_in_gets_messages(
    gateway: GatewayProcess, application: Application
) -> None:
    name = fresh()
    async with serving(application.app) as http:

        async def get_token(_: str) -> str:
            answer = await http.get("/fanway/token", headers={"x-user": "zoe"})
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            return answer.text

        async with Fanway(public(gateway), get_token=get_token) as fanway:
            channel = fanway.channel(name, rewind=1)
            async with channel.messages() as messages:
                published = (await http.post(f"/orders/{name}/pay")).json()
                message = await anext(messages)
                assert (message.data, message.id) == ({"paid": True}, published["message"])
                (member,) = (await channel.presence.get()).members
                assert (member.user, member.info) == ("zoe", {"vip": True})


async def test_a_user_who_is_not_logged_in_gets_no_token(
    gateway: GatewayProcess, application: Application
) -> None:
    async with serving(application.app) as http:
        answer = await http.get("/fanway/token")
        assert (answer.status_code, answer.json()) == (401, {"detail": "log in first"})

        async def get_token(_: str) -> str:
            if (await http.get("/fanway/token")).status_code == 401:
                raise UnauthorizedError("log in first")
            raise AssertionError

        async with Fanway(public(gateway), get_token=get_token) as fanway:
            with pytest.raises(FanwayError) as error:
                await fanway.channel(fresh()).publish(1)
    assert error.value.code == "stopped"


async def test_webhooks(application: Application) -> None:
    body = json.dumps({"events": [{"id": "1", "type": "user.online"}]})
    async with serving(application.app) as http:

        async def status(headers: dict[str, str], content: str = body) -> int:
            return (await http.post("/fanway/events", content=content, headers=headers)).status_code

        for number, secret in enumerate((OLD, NEW)):
            headers = sign_webhook(secret, body, id=f"{number}")
            assert Webhook(secret).verify(body, headers)
            assert await status(headers) == 204
        assert application.events == [json.loads(body)] * 2
        assert await status(headers, body + " ") == 401
        assert await status(sign_webhook(NEW, body, id="1", timestamp=1)) == 401
        assert await status({}) == 400
        assert await status(sign_webhook(NEW, "{", id="1"), "{") == 400
        assert await status(headers, "x" * (WEBHOOK_BYTES + 1)) == 413
    assert len(application.events) == 2


async def test_the_push_api_is_open_while_the_application_runs(application: Application) -> None:
    with pytest.raises(RuntimeError, match=r"lifespan=fanway\.lifespan"):
        application.fanway.admin()
    async with application.fanway.lifespan(application.app):
        admin = application.fanway.admin()
        assert (await admin.stats())["nodes"] == 1
    with pytest.raises(RuntimeError, match="lifespan"):
        application.fanway.admin()
    with pytest.raises(RuntimeError, match="closed"):
        await admin.stats()


def test_a_router_without_a_secret_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"auth\.secret"):
        FanwayBackend("http://gateway:8001", KEY).token_router(current_user)
