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
    """A connection that is opened on first use, and again after it was lost or the primary has moved.

    One `execute` runs at a time. If it fails or is cancelled, the connection is closed: an answer that
    arrives later would be read as the answer to the next command.
    """

    def __init__(
        self,
        primary: PrimaryLocator,
        *,
        connect_timeout: float,
        scripts: Sequence[Script] = (),
        rechecks_primary: bool = False,
    ) -> None:
        """Load *scripts* on each new connection; loading a script that Redis already has is cheap.

        *rechecks_primary*: look up the primary at intervals even while no call fails; it is enough if one
        connection of a shard does this.
        """
        self._primary = primary
        self._rechecks_primary = rechecks_primary
        self._address: Address | None = None
        self._connection = primary.server.connection(connect_timeout)
        self._scripts = scripts
        self._connect_timeout = connect_timeout

    @property
    def server(self) -> str:
        """The address of the server, for error texts; empty if the errors themselves contain it."""
        return self._primary.description if self._address is None else format_address(self._address)

    def pack_command(self, command: Command) -> bytes:
        """Return *command* as bytes; raises what hiredis raises for an argument that cannot be sent."""
        # Packed in C: redis-py packs in Python, which costs 10 µs for a publish instead of 1.5.
        packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type] # its stub has no tuple of one kind
        return packed

    async def execute(self, commands: Sequence[bytes], timeout_seconds: float) -> list[Any]:
        """Send packed *commands* and return the answers in order; an answer may be an error of its command.

        Raises:
            redis.exceptions.RedisError, OSError: the connection failed.
            TimeoutError: no answer after *timeout_seconds*, plus the connect timeout for a new connection.
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
        """Return the answers as `execute` does, but retry once the commands that were not carried out.

        These are commands for which another node is the primary now, and calls of scripts that Redis does not
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
        """Connect to the present address of the primary, unless already connected to it."""
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
            # uvloop raises this for a transport that has just closed, before redis-py has noticed.
            raise exceptions.ConnectionError(f"the connection has ended: {closed}") from closed
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response(disconnect_on_error=False))
            except exceptions.ResponseError as error:
                answers.append(error)
        return answers

    async def close(self, *, gracefully: bool = True) -> None:
        """Close the connection; the next `execute` opens another. Without *gracefully*: do not wait."""
        try:
            await self._connection.disconnect(nowait=not gracefully)
        except (exceptions.RedisError, OSError):
            return


def _calls_for(action: ErrorAction, answer: Any) -> bool:
    return isinstance(answer, Exception) and rule_for(answer).action is action
