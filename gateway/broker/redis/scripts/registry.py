"""The Lua scripts. Redis runs each script as one step, by its digest; connections load the scripts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files

Argument = str | bytes | int
Command = tuple[Argument, ...]
"""A Redis command with its arguments."""


class Script:
    """One Lua script; the head of its file says what KEYS and ARGV are, and what the script returns."""

    __slots__ = ("digest", "name", "source")

    def __init__(self, name: str) -> None:
        """Read the file `<name>.lua`, behind the functions of `prelude.lua`."""
        folder = files(__package__)
        prelude, own = ((folder / f"{part}.lua").read_text("utf-8") for part in ("prelude", name))
        self.name = name
        self.source = f"{prelude}\n{own}"
        self.digest = sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: Sequence[str], *arguments: Argument) -> Command:
        """Return the command that runs the script with *keys* as KEYS and *arguments* as ARGV."""
        return ("EVALSHA", self.digest, len(keys), *keys, *arguments)

    @property
    def load(self) -> Command:
        """The command that loads the script into Redis."""
        return ("SCRIPT", "LOAD", self.source)

    def __repr__(self) -> str:
        return f"<Script {self.name} {self.digest:.8}>"


def _constants(line: str) -> tuple[int, int]:
    """Return the two numbers that *line* of prelude.lua assigns."""
    first, second = re.findall(rf"^{line} = (\d+), (\d+)$", PUBLISH.source, re.MULTILINE)[0]
    return int(first), int(second)


def milliseconds(seconds: float) -> int:
    """Return *seconds* in milliseconds, at least 1: Redis rejects an expiry of 0."""
    return max(1, round(seconds * 1000))


PUBLISH = Script("publish")
READ_HISTORY = Script("read_history")
CLEAR_HISTORY = Script("clear_history")

ADD_ROUTES = Script("add_routes")
REMOVE_ROUTES = Script("remove_routes")
AUDIT_ROUTES = Script("audit_routes")
APPEND_TO_INBOXES = Script("append_to_inboxes")
TRIM_INBOX = Script("trim_inbox")

JOIN = Script("join")
LEAVE = Script("leave")
END_GRACES = Script("end_graces")
COUNT_MEMBERS = Script("count_members")

SEND_USER_COMMAND = Script("send_user_command")
READ_USER_COMMANDS = Script("read_user_commands")
LIST_CHANNELS = Script("list_channels")
LIST_NODES = Script("list_nodes")

RENEW_LEASE = Script("renew_lease")
BUMP_EPOCH = Script("bump_epoch")
REAP_NODE = Script("reap_node")

LARGE_BODY, BYTES_PER_ENTRY = _constants("local LARGE_BODY, BYTES_PER_ENTRY")
"""Bodies of more bytes than the first number are counted; an inbox may have the second number of bytes for
each entry that it may have."""

SCRIPTS = (
    PUBLISH,
    READ_HISTORY,
    CLEAR_HISTORY,
    ADD_ROUTES,
    REMOVE_ROUTES,
    AUDIT_ROUTES,
    APPEND_TO_INBOXES,
    TRIM_INBOX,
    JOIN,
    LEAVE,
    END_GRACES,
    COUNT_MEMBERS,
    SEND_USER_COMMAND,
    READ_USER_COMMANDS,
    LIST_CHANNELS,
    LIST_NODES,
    RENEW_LEASE,
    BUMP_EPOCH,
    REAP_NODE,
)
