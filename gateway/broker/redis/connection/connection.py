"""One connection to the primary of a shard: commands out, their answers in, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
from redis import exceptions

from gateway.broker.redis.connection.error_table import Action, rule_for
from gateway.broker.redis.connection.servers import Address, shown
from gateway.broker.redis.connection.topology import PrimaryLocator
from gateway.broker.redis.scripts.registry import SCRIPTS, Command, Script


class RedisConnection:
    """A connection that is made when it is needed, and again where the primary has moved.

    One `exchange` at a time. One that fails, or is cancelled, closes the connection: what came late would be
    taken for the answer to the next.
    """

    def __init__(
        self,
        place: PrimaryLocator,
        *,
        connect_timeout: float,
        scripts: Sequence[Script] = (),
        watchful: bool = False,
    ) -> None:
        """Make Redis know *scripts* on each new connection: that it does already costs it next to nothing.

        A *watchful* one asks now and then whether the primary is still where it is, for all of its shard.
        """
        self._place = place
        self._watchful = watchful
        self._address: Address | None = None
        self._connection = place.server.connection(connect_timeout)
        self._scripts = scripts
        self._connect_timeout = connect_timeout

    @property
    def server(self) -> str:
        """Who is talked to, for people; empty where errors say that themselves."""
        return self._place.first if self._address is None else shown(self._address)

    def pack(self, command: Command) -> bytes:
        """Return *command* as it travels; raises for what cannot."""
        # In C: redis-py's own, in Python, takes 10 µs for a publish instead of 1.5.
        packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type] # its stub has no tuple of one kind
        return packed

    async def exchange(self, commands: Sequence[bytes], within: float) -> list[Any]:
        """Return the answers to packed *commands*, Redis' refusals among them as exceptions.

        Raises what redis-py or asyncio raises where the connection fails, and TimeoutError after *within*
        seconds (and after the connect timeout where it has to connect first).
        """
        try:
            settled = self._place.settled(self._address, watchful=self._watchful)
            if not (settled and self._connection.is_connected):
                async with asyncio.timeout(min(within, self._connect_timeout)):
                    await self._connect()
            async with asyncio.timeout(within):
                return await self._converse(commands)
        except BaseException:
            await self.close(gently=False)
            raise

    async def ask(self, commands: Sequence[bytes], within: float) -> list[Any]:
        """Return the answers as `exchange` does, but ask again, once, for what was not carried out.

        That is what was refused for want of a script, or what another node has by now.
        """
        answers = await self.exchange(commands, within)
        for then in (Action.FOLLOW, Action.LOAD):
            again = [number for number, answer in enumerate(answers) if _wants(answer, then)]
            if again:
                told = await self._again([commands[number] for number in again], then, within)
                for number, answer in zip(again, told, strict=True):
                    answers[number] = answer
        return answers

    async def _again(self, commands: Sequence[bytes], then: Action, within: float) -> list[Any]:
        if then is Action.FOLLOW:
            self._place.doubt()
            return await self.exchange(commands, within)
        loads = [self.pack(script.load) for script in SCRIPTS]
        return (await self.exchange([*loads, *commands], within))[len(loads) :]

    async def _connect(self) -> None:
        """Be connected to where the primary is now."""
        connection, address = self._connection, await self._place.locate(watchful=self._watchful)
        if connection.is_connected:
            if address == self._address:
                return
            await self.close(gently=False)
        self._address = address
        if address is not None:
            connection.host, connection.port = address
        await connection.connect()
        for answer in await self._converse([self.pack(script.load) for script in self._scripts]):
            if isinstance(answer, Exception):
                raise answer

    async def _converse(self, commands: Sequence[bytes]) -> list[Any]:
        connection = self._connection
        try:
            await connection.send_packed_command(b"".join(commands), check_health=False)
        except RuntimeError as closed:
            # So uvloop speaks of a transport that ended a moment ago, which redis-py has not heard yet.
            raise exceptions.ConnectionError(f"the connection has ended: {closed}") from closed
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response(disconnect_on_error=False))
            except exceptions.ResponseError as refusal:
                answers.append(refusal)
        return answers

    async def close(self, *, gently: bool = True) -> None:
        """Close the connection; the next exchange makes another."""
        try:
            await self._connection.disconnect(nowait=not gently)
        except (exceptions.RedisError, OSError):
            return


def _wants(answer: Any, then: Action) -> bool:
    return isinstance(answer, Exception) and rule_for(answer).then is then
