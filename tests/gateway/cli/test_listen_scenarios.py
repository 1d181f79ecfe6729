"""`fanway listen` passes the scenarios of docs/vectors/client that concern what it does.

The listener runs in a greenlet: whenever it would wait, for a socket, a message or a time, the scenario goes
on.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from greenlet import getcurrent, greenlet

from gateway.cli.api_client import Refused, Unreachable
from gateway.cli.listen import (
    ChannelListener,
    Clock,
    HandshakeRejected,
    Link,
    LinkEnded,
    TokenSource,
    as_line,
)
from protocol.messages import Message

Action = list[Any]

CAPABILITIES = {"retry_subscription", "rewind"}
REPORTED = {"open", "send", "drop", "state", "message", "gap"}
"""The kinds of actions that people see of it, or the gateway."""
FOLDER = Path(__file__).parents[3] / "docs" / "vectors" / "client"
SCENARIOS = [
    scenario
    for path in sorted(FOLDER.glob("*.json"))
    for scenario in json.loads(path.read_text(encoding="ascii"))["scenarios"]
    if CAPABILITIES.issuperset(scenario["needs"])
]
GAP = re.compile(r"(.+): messages (?:may be missing here \(history.*|are missing here \((\w+)\))")


class ScriptedLink:
    def __init__(self, subject: "Subject") -> None:
        self._subject = subject
        self._ended = False

    def send(self, message: bytes) -> None:
        command = json.loads(message)
        if command["type"] == "connect":
            assert command.pop("client")["name"] == "fanway listen"
            command.setdefault("subs", {})
        self._subject.act("send", command)

    def receive(self, seconds: float) -> bytes | None:
        arrived = self._subject.wait(seconds)
        if isinstance(arrived, LinkEnded):
            self._ended = True
            raise arrived
        assert arrived is None or isinstance(arrived, bytes)
        return arrived

    def received_bytes(self) -> int:
        return 0

    def close(self) -> None:
        if not self._ended:
            self._subject.act("drop")


class Subject:
    """A listener, and everything that it does."""

    def __init__(self, scenario: Mapping[str, Any]) -> None:
        self.actions: list[Action] = []
        self.time = 0.0
        self._due = float("inf")
        """When the listener waits no longer."""
        self._scenario = getcurrent()
        self._chance = scenario.get("options", {}).get("random", 0.5)
        # It is told its channels at the start.
        given = [step["do"][1:] for step in scenario["steps"] if step["do"][0] == "channel"]
        self._channels = [name for name, *_ in given]
        self._rewind = next((options[0].get("rewind") for _, *options in given if options), None)
        self._listening = greenlet(self._listen)

    def act(self, *action: Any) -> None:
        self.actions.append(list(action))

    def _listen(self) -> None:
        listener = ChannelListener(
            "ws://gateway",
            self._channels,
            tokens=TokenSource(),
            rewind=self._rewind,
            on_message=self._on_message,
            on_note=self._on_note,
            clock=Clock(lambda: self.time, self._sleep),
            random=lambda: self._chance,
            open_link=self._open,
        )
        try:
            listener.run()
        except Refused:
            self.act("state", "stopped", {})

    # ------------------------------------------------------------ what the listener does

    def wait(self, seconds: float) -> object:
        """Let the scenario go on until something happens, for *seconds* at most."""
        self._due = self.time + seconds
        return self._scenario.switch()

    def _sleep(self, seconds: float) -> None:
        self.act("state", "waiting", {"delay": seconds * 1000})
        self.wait(seconds)

    def _open(self, _: str) -> Link:
        self.act("state", "connecting", {})
        self.act("open", 0)
        answer = self.wait(float("inf"))
        if isinstance(answer, Exception):
            raise answer
        return ScriptedLink(self)

    def _on_message(self, message: Message) -> None:
        line = json.loads(as_line(message))
        self.act("message", line["channel"], line.get("message"), line["data"])

    def _on_note(self, note: str) -> None:
        if note.startswith("listening as connection"):
            self.act("state", "connected", {})
        elif gap := GAP.fullmatch(note):
            self.act("gap", gap[1], gap[2] or "not_recovered")

    # ------------------------------------------------------------ what happens

    def do_connect(self) -> None:
        if not self._listening:
            self._listening.switch()

    def do_channel(self, *_: object) -> None:
        self.do_connect()

    def do_opened(self) -> None:
        self._listening.switch(None)

    def do_rejected(self, status: int, retry_after: float | None = None) -> None:
        seconds = None if retry_after is None else retry_after / 1000
        self._listening.switch(HandshakeRejected(status, seconds, "refused"))

    def do_closed(self, code: int, reason: str = "") -> None:
        opening = self.actions and self._due == float("inf")
        error = Unreachable("ws://gateway", "no answer") if opening else LinkEnded(code, reason)
        self._listening.switch(error)

    def do_receive(self, *messages: Mapping[str, Any]) -> None:
        for message in messages:
            self._listening.switch(json.dumps(message).encode())

    def do_advance(self, ms: float) -> None:
        end = self.time + ms / 1000 + 1e-9
        while self._due <= end and not self._listening.dead:
            self.time = max(self.time, self._due)
            self._listening.switch(None)
        self.time = end - 1e-9


def expected(actions: list[Action]) -> list[Action]:
    """Return what people or the gateway see of *actions*: no close codes beside the states."""
    return [
        [*action[:2], {key: value for key, value in action[2].items() if key != "code"}]
        if action[0] == "state"
        else action
        for action in actions
        if action[0] in REPORTED
    ]


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) > 60


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
def test_scenario(scenario: dict[str, Any]) -> None:
    subject = Subject(scenario)
    for step in scenario["steps"]:
        subject.actions.clear()
        name, *arguments = step["do"]
        getattr(subject, f"do_{name}")(*arguments)
        assert subject.actions == expected(step["expect"]), step["do"]
