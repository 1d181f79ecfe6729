"""One connection to the primary of a shard: commands are sent together and answered in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import hiredis
from redis import exceptions

from gateway.broker.redis.connection.error_table import ANSWERED_ERRORS, ErrorAction, rule_for
from gateway.broker.redis.connection.server import Address, EndDetector, format_address
from gateway.broker.redis.connection.topology import PrimaryLocator
from gateway.broker.redis.scripts.registry import SCRIPTS, Command, Script


class RedisConnection:
    """A connection that is opened on first use, and again after it was lost or the primary has moved.

    One `execute` runs at a time. If it fails or is cancelled, the connection is closed: an answer that
    arrives later would be read as the answer to the next command. A connection that the server has closed
    meanwhile is replaced before anything is written to it.
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
        self._ends: EndDetector | None = None
        self.opened = False
        """Whether it was ever open: only such a connection is worth keeping alive."""
        self.replaced = 0
        """How often the server had closed the connection before it was used again."""

    @property
    def server(self) -> str:
        """The address of the server, for error texts; empty if the errors themselves contain it."""
        return self._primary.description if self._address is None else format_address(self._address)

    def pack_command(self, command: Command) -> bytes:
        """Return *command* as bytes; raises what hiredis raises for an argument that cannot be sent."""
        # Packed in C: redis-py packs in Python, which costs 10 µs for a publish instead of 1.5.
        packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type] # its stub has no tuple of one kind
        return packed

    async def open(self, timeout_seconds: float) -> None:
        """Connect, unless the connection is open and leads to the primary.

        Raises:
            redis.exceptions.RedisError, OSError, TimeoutError: nothing can be sent now; nothing was sent.
        """
        if self._can_be_used():
            return
        if self._connection.is_connected and self._ends is not None and self._ends.has_ended():
            self.replaced += 1
            await self.close(gracefully=False)
        try:
            async with asyncio.timeout(min(timeout_seconds, self._connect_timeout)):
                await self._connect()
        except BaseException:
            await self.close(gracefully=False)
            raise

    async def execute(self, commands: Sequence[bytes], timeout_seconds: float) -> list[Any]:
        """Send packed *commands* and return the answers in order.

        An answer may be an error: of its command, or of the connection, which may have failed before the
        answer arrived. In the second case it is unknown whether Redis has executed the command.

        Args:
            commands: Packed by `pack_command`.
            timeout_seconds: For all answers, and for a new connection at most as long again.

        Raises:
            redis.exceptions.RedisError, OSError, TimeoutError: no connection; nothing was sent.
        """
        if not self._can_be_used():
            await self.open(timeout_seconds)
        return await self.execute_next(commands, timeout_seconds)

    async def execute_next(self, commands: Sequence[bytes], timeout_seconds: float) -> list[Any]:
        """Do as `execute`, but over the connection of the previous `execute` only, never over a new one."""
        answers: list[Any] = []
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._send_and_read(commands, answers)
        except (exceptions.RedisError, OSError) as error:
            await self.close(gracefully=False)
            answers += [error] * (len(commands) - len(answers))
        except BaseException:
            await self.close(gracefully=False)
            raise
        return answers

    async def probe(self, timeout_seconds: float) -> None:
        """Replace the connection if it was closed, or does not carry a question and its answer in time.

        Middleboxes forget connections without traffic, and tell neither side. Any answer counts, an error of
        an ACL as well. If no other connection can be opened now, the next `execute` opens it.
        """
        with contextlib.suppress(exceptions.RedisError, OSError):
            (answer,) = await self.execute([self.pack_command(("PING",))], timeout_seconds)
            if isinstance(answer, Exception) and not isinstance(answer, ANSWERED_ERRORS):
                self.replaced += 1
                await self.open(timeout_seconds)

    async def execute_with_retry(self, commands: Sequence[bytes], timeout_seconds: float) -> list[Any]:
        """Return the answers as `execute` does, but retry once the commands that were not carried out.

        These are commands for which another node is the primary now, and calls of scripts that Redis does not
        have.

        Raises:
            redis.exceptions.RedisError, OSError, TimeoutError: no connection; nothing was sent.
        """
        answers = await self.execute(commands, timeout_seconds)
        for action in (ErrorAction.FIND_PRIMARY, ErrorAction.LOAD_SCRIPTS):
            retried = [number for number, answer in enumerate(answers) if _calls_for(action, answer)]
            if retried:
                try:
                    new = await self._retry([commands[number] for number in retried], action, timeout_seconds)
                except (exceptions.RedisError, OSError):
                    break  # the first answers are still valid
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

    def _can_be_used(self) -> bool:
        """Return whether the connection is open and leads to the primary."""
        return (
            self._connection.is_connected
            and self._primary.is_current(self._address, recheck=self._rechecks_primary)
            and self._ends is not None
            and not self._ends.has_ended()
        )

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
        self._ends = EndDetector(connection)
        answers: list[Any] = []
        await self._send_and_read([self.pack_command(script.load) for script in self._scripts], answers)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        self.opened = True

    async def _send_and_read(self, commands: Sequence[bytes], answers: list[Any]) -> None:
        """Send *commands* and append each answer to *answers* as it arrives."""
        connection = self._connection
        if not connection.is_connected:
            raise exceptions.ConnectionError("the connection has ended")
        try:
            await connection.send_packed_command(b"".join(commands), check_health=False)
        except RuntimeError as closed:
            # uvloop raises this for a transport that has just closed, before redis-py has noticed.
            raise exceptions.ConnectionError(f"the connection has ended: {closed}") from closed
        for _ in commands:
            try:
                answers.append(await connection.read_response(disconnect_on_error=False))
            except ANSWERED_ERRORS as error:
                answers.append(error)

    async def close(self, *, gracefully: bool = True) -> None:
        """Close the connection; the next `execute` opens another. Without *gracefully*: do not wait."""
        try:
            await self._connection.disconnect(nowait=not gracefully)
        except (exceptions.RedisError, OSError):
            return


def _calls_for(action: ErrorAction, answer: Any) -> bool:
    return isinstance(answer, Exception) and rule_for(answer).action is action
