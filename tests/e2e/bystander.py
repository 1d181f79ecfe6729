"""Somebody who just talks, in a process of its own: `python -m tests.e2e.bystander PORT`, until stdin ends.

Every message is published after the last one has come back. Each echo is a line on stdout: when the message
was published (the machine's monotonic clock), and how many seconds it took to come back. A fault ends it.
"""

import select
import socket
import sys
import time
from typing import Any

import orjson

from tests.e2e.wire import TEXT, frame, upgrade

PAUSE = 0.02


class Talker:
    """A blocking client of one channel."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")
        self._socket.sendall(upgrade())
        while self._stream.readline() != b"\r\n":
            pass
        self._say(type="connect", id=1, subs={"calm": {}})
        assert self._hear()["type"] == "connected"

    def echo(self, number: int) -> float:
        """Publish *number*, and return the seconds until it has come back."""
        began = time.monotonic()
        self._say(type="publish", id=2, channel="calm", data=number)
        heard = set[str]()
        while heard != {"published", "message"}:
            message = self._hear()
            if message["type"] == "ping":
                self._say(type="pong")
            elif message["type"] in ("published", "message"):
                assert message.get("data", number) == number
                heard.add(message["type"])
            else:
                assert message["type"] in ("join", "leave"), message
        return time.monotonic() - began

    def _say(self, **message: Any) -> None:
        self._socket.sendall(frame(TEXT, orjson.dumps(message)))

    def _hear(self) -> dict[str, Any]:
        first, size = self._stream.read(2)
        assert first == 0x80 | TEXT, f"a frame of kind {first:#x}"
        if size == 126:
            size = int.from_bytes(self._stream.read(2), "big")
        message: dict[str, Any] = orjson.loads(self._stream.read(size))
        return message


def main() -> None:
    talker = Talker(int(sys.argv[1]))
    number = 0
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        began = time.monotonic()
        sys.stdout.write(f"{began} {talker.echo(number)}\n")
        sys.stdout.flush()
        number += 1


if __name__ == "__main__":
    main()
