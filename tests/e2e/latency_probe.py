"""A client in a process of its own that measures latency.

    python -m tests.e2e.latency_probe PORT CHANNEL [PID...]

It runs until stdin ends, and publishes every message after the previous one has come back. Each round trip is
a line on stdout: when the message was published (the machine's monotonic clock), how many seconds it took to
come back, and how many seconds of CPU time the processes PID used meanwhile. Any unexpected answer ends the
process with an error.
"""

import select
import socket
import sys
import time
from typing import Any

import orjson

from tests.e2e.clients import TEXT, client_frame, upgrade_request

PAUSE_SECONDS = 0.02


class BlockingClient:
    """A client of one channel on a blocking socket."""

    def __init__(self, port: int, channel: str) -> None:
        self._channel = channel
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")
        self._socket.sendall(upgrade_request())
        while self._stream.readline() != b"\r\n":
            pass
        self._send(type="connect", id=1, subs={channel: {}})
        assert self._receive()["type"] == "connected"

    def round_trip(self, number: int) -> float:
        """Publish *number*; return the seconds until the reply and the message have arrived."""
        began = time.monotonic()
        self._send(type="publish", id=2, channel=self._channel, data=number)
        received = set[str]()
        while received != {"published", "message"}:
            message = self._receive()
            if message["type"] == "ping":
                self._send(type="pong")
            elif message["type"] in ("published", "message"):
                assert message.get("data", number) == number
                received.add(message["type"])
            else:
                assert message["type"] in ("join", "leave"), message
        return time.monotonic() - began

    def _send(self, **message: Any) -> None:
        self._socket.sendall(client_frame(TEXT, orjson.dumps(message)))

    def _receive(self) -> dict[str, Any]:
        first, size = self._stream.read(2)
        assert first == 0x80 | TEXT, f"a frame that begins with {first:#x}"
        if size == 126:
            size = int.from_bytes(self._stream.read(2), "big")
        message: dict[str, Any] = orjson.loads(self._stream.read(size))
        return message


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that the process *pid* has used (clock_getcpuclockid(3), as Linux encodes it)."""
    return time.clock_gettime((~pid << 3) | 2)


def main() -> None:
    watched = [int(pid) for pid in sys.argv[3:]]
    client = BlockingClient(int(sys.argv[1]), sys.argv[2])
    number = 0
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        began, work = time.monotonic(), sum(map(cpu_seconds, watched))
        took = client.round_trip(number)
        sys.stdout.write(f"{began} {took} {sum(map(cpu_seconds, watched)) - work}\n")
        sys.stdout.flush()
        number += 1


if __name__ == "__main__":
    main()
