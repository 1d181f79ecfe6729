"""Runs one scenario of docs/vectors/client: what happens to a client, and all that it does, in order."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from fanway_client import (
    Channel,
    ChannelState,
    Fanway,
    FanwayError,
    LoadRequest,
    StateChange,
    UnauthorizedError,
)
from fanway_client.transport import HandshakeRejected, Link, LinkEvents

Action = list[Any]
TURNS = 20
"""Turns of the event loop after which everything that follows from one step has happened."""


@dataclass(eq=False)
class FakeTimer:
    due: float
    callback: Callable[[], None]
    timers: dict["FakeTimer", None]

    def cancel(self) -> None:
        self.timers.pop(self, None)


class FakeEnvironment:
    """Time passes only when a scenario says so."""

    def __init__(self, chance: float) -> None:
        self.time = 0.0
        self.chance = chance
        self.network = True
        self.timers: dict[FakeTimer, None] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self._keys = 0

    def now(self) -> float:
        return self.time

    def random(self) -> float:
        return self.chance

    def key(self) -> str:
        self._keys += 1
        return f"key-{self._keys}"

    def online(self) -> bool:
        return self.network

    def call_later(self, seconds: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self.time + max(0.0, seconds), callback, self.timers)
        self.timers[timer] = None
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(callback)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def advance(self, ms: float) -> None:
        end = self.time + ms / 1000 + 1e-9
        await settle()
        while due := [timer for timer in self.timers if timer.due <= end]:
            timer = min(due, key=lambda timer: timer.due)
            self.time = max(self.time, timer.due)
            timer.cancel()
            timer.callback()
            await settle()
        self.time = end - 1e-9

    async def sleep(self, ms: float) -> None:
        self.time += ms / 1000
        await self.advance(0)


async def settle() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


def answer(call: asyncio.Future[Any] | None, result: object) -> None:
    """Let *call*, which the client awaits unless it was stopped, return *result*, or raise it."""
    assert call is not None
    if call.cancelled():
        return
    if isinstance(result, Exception):
        call.set_exception(result)
    else:
        call.set_result(result)


class ScriptedLink:
    def __init__(self, subject: "Subject") -> None:
        self._subject = subject

    def send(self, data: str) -> None:
        self._subject.act("send", json.loads(data))

    def close(self) -> None:
        self._subject.act("drop")
        self._subject.events = None


class Subject:
    """A client whose every action is written down."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.actions: list[Action] = []
        self.events: LinkEvents | None = None
        self.environment = FakeEnvironment(options.get("random", 0.5))
        self._token: asyncio.Future[str] | None = None
        self._channel_tokens: asyncio.Future[Mapping[str, str]] | None = None
        self._loads: dict[str, asyncio.Future[str | None]] = {}
        self._handles: dict[str, Channel] = {}
        self._all_handles: list[Channel] = []
        self._throw_next = False
        self._publishes: set[asyncio.Task[None]] = set()
        urls = [f"ws://endpoint-{index}/v1/ws" for index in range(options.get("endpoints", 1))]
        self.fanway = Fanway(
            urls,
            get_token=self._get_token if options.get("token") else None,
            get_channel_tokens=self._get_channel_tokens if options.get("channel_tokens") else None,
            transport=self,
        )
        self.fanway.start(self.environment)
        self.fanway.on("state", self._on_state)
        self.fanway.on("error", lambda _: self.act("error"))

    def act(self, *action: Any) -> None:
        self.actions.append(list(action))

    async def run(self, name: str, *args: Any) -> list[Action]:
        """Do one thing; return everything that the client did because of it."""
        self.actions.clear()
        done = getattr(self, f"do_{name}")(*args)
        if asyncio.iscoroutine(done):
            await done
        await settle()
        return list(self.actions)

    # ------------------------------------------------------------ what the client calls

    def connect(self, url: str, events: LinkEvents) -> Link:
        self.act("open", int(url.removeprefix("ws://endpoint-").split("/")[0]))
        self.events = events
        return ScriptedLink(self)

    def _get_token(self, reason: str) -> asyncio.Future[str]:
        self.act("get_token", reason)
        self._token = asyncio.get_running_loop().create_future()
        return self._token

    def _get_channel_tokens(self, channels: Any) -> asyncio.Future[Mapping[str, str]]:
        self.act("get_channel_tokens", list(channels))
        self._channel_tokens = asyncio.get_running_loop().create_future()
        return self._channel_tokens

    def _load_state(self, request: LoadRequest) -> asyncio.Future[str | None]:
        self.act("load", request.channel, request.reason, request.position)
        future = self._loads[request.channel] = asyncio.get_running_loop().create_future()
        return future

    def _on_state(self, change: StateChange) -> None:
        detail: dict[str, Any] = {}
        if change.code is not None:
            detail["code"] = change.code
        if change.delay is not None:
            detail["delay"] = change.delay * 1000
        self.act("state", change.state, detail)

    def _on_channel_state(self, change: ChannelState) -> None:
        error = [] if change.error is None else [change.error.code]
        self.act("channel", change.channel, change.state, *error)

    def _on_message(self, message: Any) -> None:
        self.act("message", message.channel, message.id, message.data)
        if self._throw_next:
            self._throw_next = False
            raise RuntimeError("a handler raised")

    # ------------------------------------------------------------ what happens

    def do_connect(self) -> None:
        self.fanway.connect()

    async def do_close(self) -> None:
        await self.fanway.close()

    def do_set_token(self, token: str) -> None:
        self.fanway.set_token(token)

    def do_channel(self, name: str, options: Mapping[str, Any] | None = None) -> None:
        given = dict(options or {})
        load_state = self._load_state if given.pop("load", False) else None
        handle = self._handles[name] = self.fanway.channel(name, load_state=load_state, **given)
        self._all_handles.append(handle)
        handle.on("state", self._on_channel_state)
        handle.on("gap", lambda gap: self.act("gap", gap.channel, gap.reason))
        handle.on("message", self._on_message)

    def do_release(self, name: str) -> None:
        self._handles[name].close()

    def do_relisten(self, name: str, options: Mapping[str, Any] | None = None) -> None:
        self.do_release(name)
        self.do_channel(name, options)

    def do_publish(
        self, label: str, channel: str, data: Any, options: Mapping[str, Any] | None = None
    ) -> None:
        given = dict(options or {})
        if "timeout" in given:
            given["timeout"] /= 1000

        async def publish() -> None:
            try:
                published = await self.fanway.channel(channel).publish(data, **given)
                self.act("published", label, published.id)
            except FanwayError as error:
                self.act("publish_failed", label, error.code)

        task = asyncio.get_running_loop().create_task(publish())
        self._publishes.add(task)
        task.add_done_callback(self._publishes.discard)

    def do_page(self, event: str) -> None:
        self.fanway.wake(event)

    def do_network(self, online: bool) -> None:
        self.environment.network = online

    def do_opened(self) -> None:
        assert self.events is not None
        self.events.on_open()

    def do_rejected(self, status: int, retry_after: float | None = None) -> None:
        self._end(1006, "", HandshakeRejected(status, None if retry_after is None else retry_after / 1000))

    def do_closed(self, code: int, reason: str = "") -> None:
        self._end(code, reason)

    def _end(self, code: int, reason: str, rejected: HandshakeRejected | None = None) -> None:
        events, self.events = self.events, None
        assert events is not None
        events.on_close(code, reason, rejected)

    def do_receive(self, *messages: Any) -> None:
        for message in messages:
            self.do_receive_text(json.dumps(message))

    def do_receive_text(self, text: str) -> None:
        assert self.events is not None
        self.events.on_data(text)

    async def do_advance(self, ms: float) -> None:
        await self.environment.advance(ms)

    async def do_sleep(self, ms: float) -> None:
        await self.environment.sleep(ms)

    def do_token(self, token: str) -> None:
        answer(self._token, token)

    def do_token_fails(self, kind: str) -> None:
        answer(self._token, UnauthorizedError() if kind == "unauthorized" else RuntimeError("no token"))

    def do_channel_tokens(self, tokens: Mapping[str, str]) -> None:
        answer(self._channel_tokens, tokens)

    def do_channel_tokens_fail(self) -> None:
        answer(self._channel_tokens, RuntimeError("no tokens"))

    def do_loaded(self, name: str, position: str | None) -> None:
        answer(self._loads[name], position)

    def do_load_fails(self, name: str) -> None:
        answer(self._loads[name], RuntimeError("not loaded"))

    def do_throw_next(self) -> None:
        self._throw_next = True
