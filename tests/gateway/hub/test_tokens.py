"""Tokens that are refused are reported, whichever command has them."""

from __future__ import annotations

from protocol.errors import ErrorCode, ProtocolError
from protocol.messages import Connect, Refresh, Subscribe
from tests.gateway.node import running_node
from tests.gateway.virtual_time import on_virtual_time


@on_virtual_time
async def test_a_refused_token_is_reported_with_the_reason_that_the_client_gets() -> None:
    reported: list[ProtocolError] = []
    async with running_node(on_token_refused=reported.append) as node:
        client = await node.connect(user="ann")
        answers = [
            await client.request_rejected(Subscribe(10, "token:a", token="no token")),
            await client.request_rejected(Refresh(11, "no token")),
            await client.request_rejected(Refresh(12, node.token("bob"))),
            await node.open().request_rejected(Connect(13, token="no token")),
        ]
    assert [error.message for error in reported] == [answer.message for answer in answers]
    assert {error.code for error in reported} == {ErrorCode.UNAUTHORIZED}


@on_virtual_time
async def test_a_missing_token_is_reported_and_an_accepted_one_is_not() -> None:
    reported: list[ProtocolError] = []
    async with running_node(on_token_refused=reported.append, anonymous=False) as node:
        await node.open().connect(Connect(10, token=node.token("ann")))
        assert reported == []
        answer = await node.open().request_rejected(Connect(11))
    assert [error.message for error in reported] == [answer.message]
