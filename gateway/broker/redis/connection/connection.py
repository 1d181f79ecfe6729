"""One connection to the primary of a shard: commands are sent together and answered in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
from redis import exceptions

from gateway.broker.redis.connection.error_table import ErrorAction, rule_for
from gateway.broker.redis.connection.server import Address, format_address
from gateway.broker.redis.connection.topology import PrimaryLocator
from gateway.broker.redis.scripts.registry import SCRIPTS, Command, Script


class RedisConnection:
    """A connection that is opened on first use, and opened again when it was lost or the primary moved.

    One `execute` at a time. One that fails or is cancelled closes the connection: an answer that arrives
    later would be taken for the answer to the next command.
    """

    def __init__(
        self,
        primary: PrimaryLocator,
        *,
        connect_timeout: float,
        scripts: Sequence[Script] = (),
        rechecks_primary: bool = False,
    ) -> None:
        """Load *scripts* on each new connection; scripts that Redis has already cost next to nothing.

        *rechecks_primary*: ask where the primary is from time to time even while nothing fails; one such
        connection serves all those of its shard.
        """
        self._primary = primary
        self._rechecks_primary = rechecks_primary
        self._address: Address | None = None
        self._connection = primary.server.connection(connect_timeout)
        self._scripts = scripts
        self._connect_timeout = connect_timeout

    @property
    def server(self) -> str:
        """The address of the server, for error texts; empty where the errors themselves name it."""
        return self._primary.description if self._address is None else format_address(self._address)

    def pack_command(self, command: Command) -> bytes:
        """Return *command* as bytes; raises what hiredis raises for an argument that cannot be sent."""
        # Packing in C: redis-py's own, in Python, takes 10 µs for a publish instead of 1.5.
        packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type] # its stub has no tuple of one kind
        return packed

    async def execute(self, commands: Sequence[bytes], timeout_seconds: float) -> list[Any]:
        """Send packed *commands* and return their answers in order; an error of a command is one of them.

        Raises:
            redis.exceptions.RedisError, OSError: the connection failed.
            TimeoutError: no answer after *timeout_seconds*, plus the connect timeout if it had to connect.
        """
        try:
            current = self._primary.is_current(self._address, recheck=self._rechecks_primary)
            if not (current and self._connection.is_connected):
                async with asyncio.timeout(min(timeout_seconds, self._connect_timeout)):
                    await self._connect()
            async with asyncio.timeout(timeout_seconds):
                return await self._send_and_read(commands)
        except BaseException:
            await self.close(gracefully=False)
            raise

    async def execute_with_retry(self, commands: Sequence[bytes], timeout_seconds: float) -> list[Any]:
        """Return the answers as `execute` does, but send once more the commands that were not carried out.

        Those are commands that another node is the primary for now, and calls of scripts that Redis does not
        have.
        """
        answers = await self.execute(commands, timeout_seconds)
        for action in (ErrorAction.FIND_PRIMARY, ErrorAction.LOAD_SCRIPTS):
            retried = [number for number, answer in enumerate(answers) if _calls_for(action, answer)]
            if retried:
                new = await self._retry([commands[number] for number in retried], action, timeout_seconds)
                for number, answer in zip(retried, new, strict=True):
                    answers[number] = answer
        return answers

    async def _retry(
        self, commands: Sequence[bytes], action: ErrorAction, timeout_seconds: float
    ) -> list[Any]:
        if action is ErrorAction.FIND_PRIMARY:
            self._primary.invalidate()
            return await self.execute(commands, timeout_seconds)
        loads = [self.pack_command(script.load) for script in SCRIPTS]
        return (await self.execute([*loads, *commands], timeout_seconds))[len(loads) :]

    async def _connect(self) -> None:
        """Connect to the present address of the primary, unless it is connected there."""
        address = await self._primary.locate(recheck=self._rechecks_primary)
        connection = self._connection
        if connection.is_connected:
            if address == self._address:
                return
            await self.close(gracefully=False)
        self._address = address
        if address is not None:
            connection.host, connection.port = address
        await connection.connect()
        loads = [self.pack_command(script.load) for script in self._scripts]
        for answer in await self._send_and_read(loads):
            if isinstance(answer, Exception):
                raise answer

    async def _send_and_read(self, commands: Sequence[bytes]) -> list[Any]:
        connection = self._connection
        try:
            await connection.send_packed_command(b"".join(commands), check_health=False)
        except RuntimeError as closed:
            # uvloop raises this for a transport that has just closed, which redis-py does not know yet.
            raise exceptions.ConnectionError(f"the connection has ended: {closed}") from closed
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response(disconnect_on_error=False))
            except exceptions.ResponseError as error:
                answers.append(error)
        return answers

    async def close(self, *, gracefully: bool = True) -> None:
        """Close the connection; the next `execute` opens another. Not *gracefully*: do not wait for it."""
        try:
            await self._connection.disconnect(nowait=not gracefully)
        except (exceptions.RedisError, OSError):
            return


def _calls_for(action: ErrorAction, answer: Any) -> bool:
    return isinstance(answer, Exception) and rule_for(answer).action is action
