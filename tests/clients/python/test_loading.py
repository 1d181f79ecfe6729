"""Calls of `load_state` whose answer would have no effect are cancelled."""

import asyncio
from typing import Any

import pytest
from fanway_client import Channel, LoadRequest

from tests.clients.python.scenario import Subject, settle
from tests.protocol.client_scenarios.recovery import loading
from tests.protocol.client_scenarios.script import gap

GAP = ["receive", gap("news", "trimmed", "9-e")]
LOST = ["closed", 1006]
RELEASED = ["release", "news"]


class Loads:
    """A `load_state` whose calls never return, and what became of each."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    async def load(self, _: LoadRequest) -> None:
        """Wait until cancelled."""
        number = len(self.outcomes)
        self.outcomes.append("runs")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.outcomes[number] = "cancelled"
            raise


async def started() -> tuple[Subject, Loads, Channel]:
    """Return a client, and a channel that loads its state."""
    subject, loads = Subject({}), Loads()
    channel = subject.fanway.channel("news", load_state=loads.load)
    channel.on("message", lambda _: None)
    for step in loading("").done()["steps"][1:]:
        await subject.run(*step["do"])
    assert loads.outcomes == ["runs"]
    return subject, loads, channel


@pytest.mark.parametrize(
    ("happens", "outcomes"),
    [
        ([GAP], ["cancelled", "runs"]),
        ([GAP, GAP], ["cancelled", "cancelled", "runs"]),
        ([LOST], ["cancelled"]),
        ([RELEASED], ["cancelled"]),
        ([["close"]], ["cancelled"]),
    ],
)
async def test_a_load_is_cancelled_before_the_next_one_begins(
    happens: list[list[Any]], outcomes: list[str]
) -> None:
    subject, loads, channel = await started()
    for step in happens:
        if step == RELEASED:
            channel.close()
            await settle()
        else:
            await subject.run(*step)
    assert loads.outcomes == outcomes
    await subject.run("close")
    assert not subject.environment.tasks
