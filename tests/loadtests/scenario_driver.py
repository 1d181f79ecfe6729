"""Runs the scenarios of docs/vectors/client that concern the load tests' client; prints what it did instead.

In a process of its own (`python -m tests.loadtests.scenario_driver`), because locust patches every socket.
The client, its recorder and its connection are real; WebSocket, clock and random numbers are scripted.
"""

from __future__ import annotations

import json
import struct
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import gevent
import websocket
from gevent.event import AsyncResult, Event
from gevent.queue import Queue
from locust.env import Environment

from loadtests import connection, options
from loadtests.connection import CommandRejected, Disconnected, UpgradeRejected
from loadtests.metrics import ProcessMetrics
from loadtests.options import Options, Profile
from loadtests.scenario_run import ScenarioRun
from loadtests.user_recorder import UserRecorder
from loadtests.websocket_user import WebSocketUser
from protocol.client import Decision, Retry

Action = list[Any]

CAPABILITIES = {"failing_start", "gone", "retry_subscription", "subscribe_later"}
REPORTED = {"open", "send", "drop", "state", "message", "gap"}
"""The kinds of actions that the client does; it tells nobody the state of a channel."""
TURNS = 20
FOLDER = Path(__file__).parents[2] / "docs" / "vectors" / "client"


class World:
    """The gateway, the network and the clock of one client, and everything that the client did."""

    def __init__(self, chance: float) -> None:
        self.actions: list[Action] = []
        self.time = 0.0
        self.chance = chance
        self._sleeping: list[tuple[float, Event]] = []
        self._opening: AsyncResult | None = None
        self._socket: ScriptedSocket | None = None

    def act(self, *action: Any) -> None:
        self.actions.append(list(action))

    # ------------------------------------------------------------ the clock of the client

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            woken = Event()
            self._sleeping.append((self.time + seconds, woken))
            woken.wait()

    def later(self, seconds: float, callback: Callable[..., None], *arguments: Any) -> None:
        def run() -> None:
            self.sleep(seconds)
            callback(*arguments)

        gevent.spawn(run)

    def advance(self, ms: float) -> None:
        end = self.time + ms / 1000 + 1e-9
        while due := [each for each in self._sleeping if each[0] <= end]:
            first = min(due, key=lambda each: each[0])
            self._sleeping.remove(first)
            self.time = max(self.time, first[0])
            first[1].set()
            settle()
        self.time = end - 1e-9

    # ------------------------------------------------------------ the network

    def open(self, *_: object) -> ScriptedSocket:
        self.act("open", 0)
        self._opening = AsyncResult()
        self._socket = self._opening.get()
        return self._socket

    def opened(self) -> None:
        assert self._opening is not None
        self._opening.set(ScriptedSocket(self))
        self._opening = None

    def end(self, error: Exception, code: int) -> None:
        """End the attempt with *error*, or the connection with *code*."""
        if self._opening is not None:
            self._opening.set_exception(error)
            self._opening = None
        else:
            assert self._socket is not None
            self._socket.arrive(code)

    def receive(self, message: Mapping[str, Any]) -> None:
        assert self._socket is not None
        self._socket.arrive(json.dumps(message).encode())


class ScriptedSocket:
    """What `loadtests.connection` uses of a `websocket.WebSocket`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._arriving: Queue = Queue()
        self._ended = False

    def arrive(self, item: bytes | int) -> None:
        """Let a frame arrive, or a Close frame with a code."""
        self._arriving.put(item)

    def recv_data(self) -> tuple[int, bytes]:
        item = self._arriving.get()
        if isinstance(item, bytes):
            return websocket.ABNF.OPCODE_TEXT, item
        self._ended = True
        if item in {None, 1006}:
            raise websocket.WebSocketConnectionClosedException
        # 1005 stands for a Close frame without a code (RFC 6455 section 7.4.1).
        return websocket.ABNF.OPCODE_CLOSE, b"" if item == 1005 else struct.pack("!H", item)

    def send(self, data: bytes, _: int) -> None:
        command = json.loads(data)
        if command["type"] == "connect":
            assert command.pop("client") == {"name": "fanway-loadtests"}
            command.setdefault("subs", {})
        self._world.act("send", command)

    def abort(self) -> None:
        if not self._ended:
            self._world.act("drop")
            self._ended = True
            self._arriving.put(None)

    def shutdown(self) -> None:
        """Release what `abort` has closed."""


class Recorder(UserRecorder):
    """Tells what the metrics of the load test get."""

    world: World

    def on_reply(self, command: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        if reply["type"] == "connected":
            self.world.act("state", "connected", {})
        super().on_reply(command, reply)

    def _on_subscribed(self, answer: Mapping[str, Any], *, since: str | None) -> None:
        before = self.metrics.counts["unrecovered"]
        super()._on_subscribed(answer, since=since)
        if self.metrics.counts["unrecovered"] > before:
            self.world.act("gap", answer["channel"], "not_recovered")

    def _on_message(self, message: Mapping[str, Any], timing: str) -> None:
        if message["channel"] in self.channels:
            self.world.act("message", message["channel"], message.get("message"), message["data"])
        super()._on_message(message, timing)

    def _on_gap(self, gap: Mapping[str, Any]) -> None:
        if gap["channel"] in self.channels:
            self.world.act("gap", gap["channel"], gap["reason"])
        super()._on_gap(gap)


class Subject(WebSocketUser):
    """A user of a load test that stays connected."""

    abstract = True
    world: ClassVar[World]

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.recorder = Recorder(self.name, self.metrics)
        self.recorder.world = self.world
        self._client_state._random = lambda: self.world.chance  # noqa: SLF001
        self._told: Decision | None = None
        self._began = False

    def stay_connected(self) -> None:
        self.connect()
        while True:
            self._closed.wait()
            self.reconnect()

    def _apply(self, decision: Decision) -> None:
        super()._apply(decision)
        if decision is not self._told:
            delay = {"delay": decision.after_seconds * 1000} if isinstance(decision, Retry) else {}
            self.world.act("state", "waiting" if delay else "stopped", delay)
        self._told = decision

    def _connect_once(self) -> None:
        self.world.act("state", "connecting", {})
        super()._connect_once()

    # ------------------------------------------------------------ what happens

    def do_connect(self) -> None:
        if not self._began:
            self._began = True
            gevent.spawn(self.stay_connected)

    def do_channel(self, name: str, _: Mapping[str, Any] | None = None) -> None:
        if self.is_connected:
            gevent.spawn(self._subscribe, name)
        else:
            self._client_state.add(name)
            self.do_connect()

    def _subscribe(self, name: str) -> None:
        try:
            self.subscribe(name)
        except (CommandRejected, Disconnected) as error:
            self.metrics.counts[type(error).__name__] += 1

    def do_opened(self) -> None:
        self.world.opened()

    def do_closed(self, code: int, _: str = "") -> None:
        self.world.end(ConnectionRefusedError(), code)

    def do_rejected(self, status: int, retry_after: float | None = None) -> None:
        seconds = None if retry_after is None else retry_after / 1000
        self.world.end(UpgradeRejected(status, seconds), 1006)

    def do_receive(self, *messages: Mapping[str, Any]) -> None:
        for message in messages:
            self.world.receive(message)

    def do_advance(self, ms: float) -> None:
        self.world.advance(ms)


def settle() -> None:
    for _ in range(TURNS):
        gevent.sleep(0)


def expected(actions: list[Action]) -> list[Action]:
    """Return what the client reports of *actions*: no close codes beside its states."""
    return [
        [*action[:2], {key: value for key, value in action[2].items() if key != "code"}]
        if action[0] == "state"
        else action
        for action in actions
        if action[0] in REPORTED
    ]


def run(scenario: Mapping[str, Any], scenario_run: ScenarioRun) -> str:
    """Return what the client did otherwise; empty if it did as the scenario says."""
    Subject.clock = Subject.world = world = World(scenario.get("options", {}).get("random", 0.5))
    Subject.scenario_run = scenario_run
    connection._open_websocket = world.open  # type: ignore[assignment]  # noqa: SLF001
    scenario_run.metrics = ProcessMetrics(late_after_us=10**9)
    user = Subject(scenario_run.environment)
    scenario_run.participants[user] = None
    for step in scenario["steps"]:
        world.actions.clear()
        name, *arguments = step["do"]
        getattr(user, f"do_{name}")(*arguments)
        settle()
        if scenario_run.metrics.counts["crashes"]:
            return f"{step['do']}: {scenario_run.metrics.notes['crashes']}"
        if world.actions != (actions := expected(step["expect"])):
            return f"{step['do']}: {world.actions}, not {actions}"
    return ""


def main() -> int:
    """Print a line for each scenario that failed, and how many passed; return the exit code."""
    scenario_run = ScenarioRun("scenarios", Profile(1, 1, 1, rate=1, channels=1))
    parser = ArgumentParser()
    options.add_arguments(parser, Profile(1, 1, 1, rate=1, channels=1))
    scenario_run.options = Options.from_arguments(parser.parse_args(["--codec=json"]), None)
    scenario_run.environment = Environment()
    passed = failed = 0
    for path in sorted(FOLDER.glob("*.json")):
        for scenario in json.loads(path.read_text(encoding="ascii"))["scenarios"]:
            if not CAPABILITIES.issuperset(scenario["needs"]):
                continue
            difference = run(scenario, scenario_run)
            failed += bool(difference)
            passed += not difference
            if difference:
                sys.stdout.write(f"{scenario['name']}: {difference}\n")
    sys.stdout.write(f"{passed} passed, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
