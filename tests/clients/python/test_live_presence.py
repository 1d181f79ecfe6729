"""`LivePresence` after a gap: the list is loaded again, until the gateway can answer."""

from typing import Any

import pytest
from fanway_client import LivePresence

from tests.clients.python.scenario import Subject
from tests.protocol.client_scenarios.script import connected, gap, subscribed

ANN = {"connection": "c1", "user": "ann"}
BEN = {"connection": "c2", "user": "ben"}


async def asked(subject: Subject, *step: Any) -> list[dict[str, Any]]:
    """Let *step* happen; return the commands `presence` that the client sends because of it."""
    actions = await subject.run(*step)
    return [action[1] for action in actions if action[0] == "send" and action[1]["type"] == "presence"]


async def followed() -> tuple[Subject, LivePresence]:
    """Return a client that follows the members of `room`, of whom there is one."""
    subject = Subject({})
    presence = LivePresence(subject.fanway, "room")
    await subject.run("opened")
    (command,) = [action[1] for action in await subject.run("receive", connected({})) if action[0] == "send"]
    await subject.run("receive", {**subscribed("room", "5-a", id=command["id"]), "members": [ANN]})
    assert set(presence.users) == {"ann"}
    return subject, presence


@pytest.mark.parametrize("code", ["unavailable", "rate_limited", "internal"])
async def test_the_list_is_loaded_until_the_gateway_can_answer(code: str) -> None:
    subject, presence = await followed()
    (command,) = await asked(subject, "receive", gap("room", "trimmed", "9-e"))
    error = {"type": "error", "code": code, "message": "not now", "retry_after_ms": 2_000}
    assert await asked(subject, "receive", {**error, "id": command["id"]}) == []
    (command,) = await asked(subject, "advance", 2_000)
    reply = {"type": "presence", "channel": "room", "connections": 2, "users": 2, "members": [ANN, BEN]}
    await subject.run("receive", {**reply, "id": command["id"]})
    assert set(presence.users) == {"ann", "ben"}
    await subject.run("close")


@pytest.mark.parametrize("code", ["not_subscribed", "permission_denied"])
async def test_other_errors_are_final(code: str) -> None:
    subject, _ = await followed()
    (command,) = await asked(subject, "receive", gap("room", "trimmed", "9-e"))
    await subject.run("receive", {"type": "error", "code": code, "message": "no", "id": command["id"]})
    assert await asked(subject, "advance", 60_000) == []
    await subject.run("close")
