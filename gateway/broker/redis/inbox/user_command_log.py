"""Commands for a user's connections: each is delivered once, even if it was issued while this node was away.

A command reaches a node through its inbox, and stays in the shard's log of user commands for an hour
(scripts/send_user_command.lua). A node whose routes were missing for a while reads the log, because commands
of that time may not have reached its inbox (docs/redis.md#when-something-fails).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from gateway.broker.base import LocalNode, UserCommand
from gateway.broker.redis import codec
from gateway.broker.redis.connection.pipeline import Pipeline, wait_for
from gateway.broker.redis.keys import Keys, user_routes
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import READ_USER_COMMANDS, SEND_USER_COMMAND, milliseconds
from gateway.clock import Clock
from gateway.errors import GatewayError
from gateway.tasks import Tasks

MAX_LOGGED_COMMANDS = 10_000
"""The approximate number of commands that a shard's log keeps: about 200 bytes each."""

LOG_TTL_SECONDS = 3_600.0
"""How long the log is kept after the newest command; a node that is away for longer misses the commands."""

OVERLAP_SECONDS = 60.0
"""Seconds. The log is read from this long before the last lease renewal: commands from that time may still be
unread in the inbox, or may carry the clock of another primary."""

COMMANDS_PER_READ = 500


class UserCommandLog:
    """The user commands of one shard, each delivered once."""

    def __init__(
        self,
        pipeline: Pipeline,
        keys: Keys,
        options: RedisOptions,
        node: LocalNode,
        tasks: Tasks,
        clock: Clock,
        *,
        incarnation: Callable[[], str],
        deliver: Callable[[UserCommand], None],
    ) -> None:
        """Prepare to send commands and to deliver them.

        Args:
            pipeline: Sends the calls.
            keys: The shard's keys.
            options: The timeout of `send` and the limit of inboxes.
            node: Knows which users are connected here.
            tasks: Owner of the reads of the log.
            clock: The clock of `UserCommand.issued_before`.
            incarnation: Returns the id of the node's present incarnation; empty before the first.
            deliver: Called with each command.
        """
        self._pipeline = pipeline
        self._keys = keys
        self._options = options
        self._node = node
        self._tasks = tasks
        self._clock = clock
        self._incarnation = incarnation
        self._deliver = deliver
        self._delivered: OrderedDict[bytes, None] = OrderedDict()
        """The ids of the commands that were delivered or skipped."""
        self._complete_until: int | None = None
        """Every command issued before this time was delivered: Unix milliseconds by Redis' clock."""
        self._resubscriptions = 0
        """How often routes were lost and channels were resubscribed."""
        self._caught_up_resubscriptions = 0
        """The value of `_resubscriptions` at the last complete read of the log."""

    async def send(self, command: UserCommand) -> None:
        """Log *command*, and send it to this node and to every node with a connection of its user.

        A node that is away delivers the command if it returns within `LOG_TTL_SECONDS`.

        Raises:
            BrokerUnavailable: it is unknown whether the command was sent.
        """
        keys = self._keys
        call = SEND_USER_COMMAND(
            [keys.state, keys.nodes, keys.user_commands, *map(keys.route, user_routes(command.user))],
            keys.inbox_prefix,
            self._options.inbox_limit,
            codec.pack_user_command(command),
            self._incarnation(),
            MAX_LOGGED_COMMANDS,
            milliseconds(LOG_TTL_SECONDS),
        )
        await wait_for(self._pipeline.call(call), self._options.publish_timeout)

    def on_inbox_entry(self, head: list[bytes], body: bytes) -> None:
        """Deliver the command in an entry of the inbox, unless it was delivered before."""
        if self._is_first_time(head[-1]):
            self._deliver(codec.unpack_user_command(body))

    def on_resubscribed(self) -> None:
        """Read the log: commands may be missing, because routes or inbox entries were lost."""
        self._resubscriptions += 1
        self._tasks.spawn(self._catch_up())

    def on_lease_renewed(self, now: int) -> None:
        """Note that the lease was held and the inbox was readable at *now*, in Unix ms by Redis' clock.

        If a read of the log has failed, it is retried.
        """
        if self._caught_up_resubscriptions == self._resubscriptions:
            self._complete_until = now
        else:
            self._tasks.spawn(self._catch_up())

    # ------------------------------------------------------------ inside

    async def _catch_up(self) -> None:
        resubscriptions = self._resubscriptions
        try:
            now, entries = await self._read_log()
        except GatewayError:
            return  # `on_lease_renewed` retries it
        # A connection made during this call counts as older than the command. Closing one connection too many
        # is better than missing one.
        for command in self._not_delivered(entries, now, self._clock() - now / 1000):
            self._deliver(command)
        if resubscriptions == self._resubscriptions:
            self._caught_up_resubscriptions, self._complete_until = resubscriptions, now

    async def _read_log(self) -> tuple[int, list[tuple[bytes, UserCommand]]]:
        """Return Redis' time at the end of the log, in ms, and the commands that may have been missed."""
        # Without `_complete_until`, connections may be older than this node's first lease: read all commands.
        start = b"-"
        if self._complete_until is not None:
            start = b"%d" % (self._complete_until - int(OVERLAP_SECONDS * 1000))
        entries: list[tuple[bytes, UserCommand]] = []
        while True:
            now, page = await self._pipeline.call(
                READ_USER_COMMANDS([self._keys.user_commands], start, COMMANDS_PER_READ)
            )
            entries += [(id, codec.unpack_user_command(fields[1])) for id, fields in page]
            if len(page) < COMMANDS_PER_READ:
                return now, entries
            start = b"(" + page[-1][0]

    def _not_delivered(
        self, entries: list[tuple[bytes, UserCommand]], now: int, clock_offset: float
    ) -> list[UserCommand]:
        """Return the commands in *entries* that must still be delivered, in order, each with its time.

        The time of issue is by this node's clock, which is *clock_offset* seconds ahead of Redis' clock, and
        never later than *now*, by Redis' clock: ids keep increasing when that clock is stepped back. A
        subscribe or unsubscribe is skipped if a newer command for the same user and channel was delivered.
        """
        commands: list[UserCommand] = []
        superseded: set[tuple[str, str]] = set()
        for id, command in reversed(entries):
            target = (command.user, command.channel)
            if not self._is_first_time(id):
                superseded.add(target)
            elif (target not in superseded or command.action == "disconnect") and self._is_connected(
                command.user
            ):
                # The id contains the millisecond in which the command was issued: the next one is the limit.
                issued_before = min(int(id.partition(b"-")[0]) + 1, now) / 1000 + clock_offset
                commands.append(replace(command, issued_before=issued_before))
        return commands[::-1]

    def _is_connected(self, user: str) -> bool:
        return bool(self._node.connections(user))

    def _is_first_time(self, id: bytes) -> bool:
        """Remember *id*; return whether it was unknown before."""
        if id in self._delivered:
            return False
        self._delivered[id] = None
        if len(self._delivered) > MAX_LOGGED_COMMANDS * 2:
            self._delivered.popitem(last=False)
        return True

    def __repr__(self) -> str:
        behind = self._resubscriptions - self._caught_up_resubscriptions
        return f"<UserCommandLog {len(self._delivered)} delivered, behind by {behind} resubscriptions>"
