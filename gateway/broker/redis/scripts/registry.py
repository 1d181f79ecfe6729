"""The scripts: each is atomic, known to Redis by its digest, and loaded where Redis does not know it."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files

Argument = str | bytes | int
Command = tuple[Argument, ...]


class Script:
    """One Lua script."""

    __slots__ = ("digest", "name", "source")

    def __init__(self, name: str) -> None:
        """Read the script *name*."""
        folder = files(__package__)
        prelude, own = ((folder / f"{part}.lua").read_text("utf-8") for part in ("prelude", name))
        self.name = name
        self.source = f"{prelude}\n{own}"
        self.digest = sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: Sequence[str], *arguments: Argument) -> Command:
        """Return the command that runs it."""
        return ("EVALSHA", self.digest, len(keys), *keys, *arguments)

    @property
    def load(self) -> Command:
        """The command that makes Redis know it."""
        return ("SCRIPT", "LOAD", self.source)

    def __repr__(self) -> str:
        return f"<Script {self.name} {self.digest:.8}>"


def milliseconds(seconds: float) -> int:
    """Return *seconds* as Redis counts them: none is too short to count."""
    return max(1, round(seconds * 1000))


PUBLISH = Script("publish")
SUBSCRIBE = Script("subscribe")
UNSUBSCRIBE = Script("unsubscribe")
READ = Script("read")
CLEAR = Script("clear")
TOUCH = Script("touch")
JOIN = Script("join")
LEAVE = Script("leave")
COUNT = Script("count")
RENEW = Script("renew")
BUMP = Script("bump")
REAP = Script("reap")
TELL = Script("tell")
SAID = Script("said")
POST = Script("post")
NAMES = Script("names")
NODES = Script("nodes")

SCRIPTS = (
    PUBLISH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    READ,
    CLEAR,
    TOUCH,
    JOIN,
    LEAVE,
    COUNT,
    RENEW,
    BUMP,
    REAP,
    TELL,
    SAID,
    POST,
    NAMES,
    NODES,
)
