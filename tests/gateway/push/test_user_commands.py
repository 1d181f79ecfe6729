"""Commands to every connection of a user."""

from typing import Any

import pytest

from gateway.broker.base import UserCommand
from tests.gateway.push.push_kit import api_with_ann


@pytest.mark.parametrize(
    ("body", "connections", "command"),
    [
        (None, 2, UserCommand("ann/x", "disconnect", code=4005, reason="disconnected")),
        ({}, 2, UserCommand("ann/x", "disconnect", code=4005, reason="disconnected")),
        (
            {"code": 4003, "reason": "signed out", "except": ["c1", "c9"]},
            1,
            UserCommand(
                "ann/x",
                "disconnect",
                code=4003,
                reason="signed out",
                except_connections=frozenset({"c1", "c9"}),
            ),
        ),
        ({"code": 4004}, 2, UserCommand("ann/x", "disconnect", code=4004, reason="token_expired")),
        ({"code": 4999, "reason": ""}, 2, UserCommand("ann/x", "disconnect", code=4999, reason="")),
        ({"code": 4500}, 2, UserCommand("ann/x", "disconnect", code=4500, reason="disconnected")),
    ],
)
async def test_a_user_is_disconnected_everywhere(
    body: dict[str, Any] | None, connections: int, command: UserCommand
) -> None:
    api = await api_with_ann()
    async with api.client() as client:
        if body is None:
            answer = await client.post("/v1/users/ann%2Fx/disconnect")
        else:
            answer = await client.post("/v1/users/ann%2Fx/disconnect", json=body)
    assert answer.json() == {"connections": connections}
    assert api.node.user_commands == [command]


@pytest.mark.parametrize("action", ["subscribe", "unsubscribe"])
@pytest.mark.parametrize("user", ["ann/x", "bob"])
async def test_a_users_connections_are_subscribed_and_unsubscribed(action: Any, user: str) -> None:
    api = await api_with_ann()
    async with api.client() as client:
        path = f"/v1/users/{user.replace('/', '%2F')}/{action}"
        answer = await client.post(path, json={"channel": "plain:1"})
    assert answer.json() == {"connections": 2 if user == "ann/x" else 0}
    assert api.node.user_commands == [UserCommand(user, action, channel="plain:1")]
