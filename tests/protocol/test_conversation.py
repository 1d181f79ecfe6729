"""What a client may say and when: the table, and any conversation against a model that has no table."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.codec import CODECS
from protocol.commands import COMMANDS
from protocol.conversation import RULES, State, Verdict, verdict
from protocol.errors import CLOSES, CloseCode, Reaction
from tests.protocol import examples
from tests.protocol.strategies import bounded


def test_the_table_is_complete() -> None:
    assert set(RULES) == set(product(State, COMMANDS))


@pytest.mark.parametrize(
    ("state", "connect", "rest"),
    [
        (State.OPENED, Verdict.HANDLE, Verdict.VIOLATION),
        (State.CONNECTING, Verdict.VIOLATION, Verdict.HANDLE),
        (State.CONNECTED, Verdict.VIOLATION, Verdict.HANDLE),
        (State.CLOSING, Verdict.IGNORE, Verdict.IGNORE),
    ],
)
def test_connect_comes_first_and_once(state: State, connect: Verdict, rest: Verdict) -> None:
    assert verdict(state, "connect") is connect
    assert {verdict(state, kind) for kind in COMMANDS if kind != "connect"} == {rest}


def test_who_breaks_it_has_a_bug() -> None:
    assert CLOSES[CloseCode.PROTOCOL_VIOLATION].reaction is Reaction.STOP


class Conversation(RuleBasedStateMachine):
    """A gateway that keeps the state, against a record of what was said and answered."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State.OPENED
        self.connects = 0
        self.refused = 0
        self.handled = 0
        self.ended = False

    @rule(
        codec=st.sampled_from(list(CODECS.values())),
        command=st.sampled_from(list(examples.COMMANDS.values())),
    )
    def say(self, codec, command) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        kind = codec.decode(codec.encode_command(command)).type
        open_connects = self.connects - self.refused
        said = verdict(self.state, kind)
        if self.ended:
            assert said is Verdict.IGNORE
        elif (kind == "connect") == (open_connects == 0):
            assert said is Verdict.HANDLE
        else:
            assert said is Verdict.VIOLATION
        self._act(said, kind)

    def _act(self, said: Verdict, kind: str) -> None:
        if said is Verdict.VIOLATION:
            self.state, self.ended = State.CLOSING, True
        elif said is Verdict.HANDLE:
            self.handled += 1
            if kind == "connect":
                self.state, self.connects = State.CONNECTING, self.connects + 1

    @precondition(lambda self: self.state is State.CONNECTING)
    @rule()
    def accept(self) -> None:
        self.state = State.CONNECTED

    @precondition(lambda self: self.state is State.CONNECTING)
    @rule()
    def refuse_for_now(self) -> None:
        self.state, self.refused = State.OPENED, self.refused + 1

    @rule()
    def end(self) -> None:
        self.state, self.ended = State.CLOSING, True

    @invariant()
    def nothing_was_handled_before_a_connect(self) -> None:
        assert self.connects or not self.handled
        assert self.connects - self.refused in {0, 1}


Conversation.TestCase.settings = settings(bounded, stateful_step_count=20)
TestConversation = Conversation.TestCase
