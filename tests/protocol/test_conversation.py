"""Which commands a client may send when: the table, and random ones against a model without a table."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.codec import CODECS
from protocol.commands import COMMANDS
from protocol.conversation import ACTIONS, CommandAction, State, action_for
from protocol.errors import CLOSES, CloseCode, Reaction
from tests.protocol import examples
from tests.protocol.strategies import bounded


def test_the_table_is_complete() -> None:
    assert set(ACTIONS) == set(product(State, COMMANDS))


@pytest.mark.parametrize(
    ("state", "connect", "others"),
    [
        (State.OPENED, CommandAction.HANDLE, CommandAction.CLOSE),
        (State.CONNECTING, CommandAction.CLOSE, CommandAction.HANDLE),
        (State.CONNECTED, CommandAction.CLOSE, CommandAction.HANDLE),
        (State.CLOSING, CommandAction.IGNORE, CommandAction.IGNORE),
    ],
)
def test_connect_comes_first_and_once(state: State, connect: CommandAction, others: CommandAction) -> None:
    assert action_for(state, "connect") is connect
    assert {action_for(state, kind) for kind in COMMANDS if kind != "connect"} == {others}


def test_a_client_that_sends_a_command_too_early_or_connect_twice_stops() -> None:
    assert CLOSES[CloseCode.PROTOCOL_VIOLATION].reaction is Reaction.STOP


class Conversation(RuleBasedStateMachine):
    """The state that a gateway keeps, against a record of the commands and replies."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State.OPENED
        self.connects = 0
        self.rejected = 0
        self.handled = 0
        self.ended = False

    @rule(
        codec=st.sampled_from(list(CODECS.values())),
        command=st.sampled_from(list(examples.COMMANDS.values())),
    )
    def send(self, codec, command) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        kind = codec.decode(codec.encode_command(command)).type
        open_connects = self.connects - self.rejected
        action = action_for(self.state, kind)
        if self.ended:
            assert action is CommandAction.IGNORE
        elif (kind == "connect") == (open_connects == 0):
            assert action is CommandAction.HANDLE
        else:
            assert action is CommandAction.CLOSE
        self._apply(action, kind)

    def _apply(self, action: CommandAction, kind: str) -> None:
        if action is CommandAction.CLOSE:
            self.state, self.ended = State.CLOSING, True
        elif action is CommandAction.HANDLE:
            self.handled += 1
            if kind == "connect":
                self.state, self.connects = State.CONNECTING, self.connects + 1

    @precondition(lambda self: self.state is State.CONNECTING)
    @rule()
    def accept(self) -> None:
        self.state = State.CONNECTED

    @precondition(lambda self: self.state is State.CONNECTING)
    @rule()
    def reject_for_now(self) -> None:
        self.state, self.rejected = State.OPENED, self.rejected + 1

    @rule()
    def end(self) -> None:
        self.state, self.ended = State.CLOSING, True

    @invariant()
    def no_command_was_handled_before_connect(self) -> None:
        assert self.connects or not self.handled
        assert self.connects - self.rejected in {0, 1}


Conversation.TestCase.settings = settings(bounded, stateful_step_count=20)
TestConversation = Conversation.TestCase
