"""A chat in the terminal.

Start a gateway with `make run`, then run this in two terminals, as different users:

    .venv/bin/python examples/chat.py lobby --name ann

Lines that you type are sent to everybody in the channel; Ctrl-D leaves. The example shows what every client
must do: resume from its last position after a disconnect and say if messages are missing, publish again what
was not acknowledged (under the same key: with a token, nobody receives it twice), answer pings, and handle
each close code as docs/protocol.md#close-codes says.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import sys
import uuid
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

STOP_CODES = {1002, 1007, 1009, 4002, 4003, 4004, 4005, 4012}
"""Close codes after which a client stops; 4004 is one of them because this one cannot fetch another token."""
LONG_BACKOFF_CODES = {4008, 4010}
DRAIN = 4000
TRANSIENT_ERRORS = {"rate_limited", "unavailable", "internal"}

BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 30.0

CONNECT_TIMEOUT_SECONDS = 10.0
"""Until `connected` arrives; after that, how much longer than the heartbeat a connection may be silent."""


class Stopped(Exception):
    """The client must not reconnect."""


class Chat:
    """One user in one channel, across reconnects."""

    def __init__(self, channel: str, name: str, token: str | None) -> None:
        self.channel = channel
        self.name = name
        self.token = token
        self.position: str | None = None
        """The id of the last message shown, from which to resume."""
        self.unacknowledged: dict[str, dict[str, str]] = {}
        """Data of messages without a reply, by their idempotency key."""
        self.all_acknowledged = asyncio.Event()
        self.all_acknowledged.set()
        self._socket: ClientConnection | None = None
        """The connection, once it is subscribed."""
        self._command_ids = itertools.count(2)
        self._keys: dict[int, str] = {}
        """Idempotency keys by the id of the command that awaits its reply."""
        self._announced_delay = 0.0
        """The delay of the last `reconnect` push or `Retry-After` header."""
        self._attempt = 0

    async def run(self, url: str) -> None:
        """Connect, and reconnect after every disconnect, until a close code says to stop."""
        while True:
            code = None
            try:
                async with connect(url, subprotocols=[Subprotocol("fanway.v1.json")]) as socket:
                    code = await self._converse(socket)
            except InvalidStatus as rejected:
                if rejected.response.status_code not in {429, 503}:
                    raise Stopped(f"handshake rejected: {rejected.response.body.decode()}") from None
                self._announced_delay = float(rejected.response.headers.get("Retry-After", 0))
            except (OSError, WebSocketException) as error:
                show(f"cannot connect: {error}")
            delay = self._reconnect_delay(code)
            show(f"reconnecting in {delay:.1f} s")
            await asyncio.sleep(delay)

    async def publish(self, text: str) -> None:
        """Publish a line; it is published again after a reconnect, until the gateway has acknowledged it."""
        key = uuid.uuid4().hex
        self.unacknowledged[key] = {"name": self.name, "text": text}
        self.all_acknowledged.clear()
        await self._send_publish(key)

    async def _converse(self, socket: ClientConnection) -> int | None:
        """Subscribe and process messages; return the close code, None if there was no Close frame."""
        options: dict[str, Any] = {"rewind": 10} if self.position is None else {"since": self.position}
        command = {"type": "connect", "id": 1, "token": self.token, "subs": {self.channel: options}}
        silence_limit = CONNECT_TIMEOUT_SECONDS
        try:
            await socket.send(json.dumps(command))
            while True:
                # A connection that is silent for longer than the gateway's heartbeat is lost.
                async with asyncio.timeout(silence_limit):
                    message = json.loads(await socket.recv())
                if message["type"] == "connected":
                    silence_limit += message["heartbeat"]
                    self._on_subscribed(message["subs"][self.channel])
                    self._socket = socket
                    for key in list(self.unacknowledged):
                        await self._send_publish(key)
                await self._on_message(socket, message)
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else None
        finally:
            self._socket = None
            self._keys.clear()

    def _on_subscribed(self, answer: dict[str, Any]) -> None:
        if answer["type"] == "error":
            raise Stopped(f"{self.channel}: {answer['message']}")
        self._attempt = 0
        show(f"subscribed to {self.channel}")
        if self.position is not None and not answer["recovered"]:
            show("some messages are missing here")
        for message in answer["messages"]:
            self._show_message(message)
        self.position = answer.get("position")

    async def _on_message(self, socket: ClientConnection, message: dict[str, Any]) -> None:
        match message["type"]:
            case "message":
                self._show_message(message)
                self.position = message.get("message", self.position)
            case "gap":
                show("some messages are missing here")
                self.position = message.get("position", self.position)
            case "join" | "leave" as kind:
                user = message["member"]["user"] or "an anonymous user"
                show(f"{user} {'joined' if kind == 'join' else 'left'}")
            case "published":
                self._remove_unacknowledged(message["id"])
            case "error" if "id" in message:
                await self._on_error(message)
            case "ping":
                await socket.send('{"type": "pong"}')
            case "reconnect":
                self._announced_delay = message["after_ms"] / 1000

    async def _on_error(self, error: dict[str, Any]) -> None:
        if error["code"] in TRANSIENT_ERRORS and error["id"] in self._keys:
            await asyncio.sleep(error.get("retry_after_ms", 1000) / 1000)
            await self._send_publish(self._keys.pop(error["id"]))
        else:
            show(f"{error['code']}: {error['message']}")
            self._remove_unacknowledged(error["id"])

    async def _send_publish(self, key: str) -> None:
        if self._socket is None:
            return
        command_id = next(self._command_ids)
        self._keys[command_id] = key
        command = {"type": "publish", "id": command_id, "channel": self.channel, "key": key}
        try:
            await self._socket.send(json.dumps(command | {"data": self.unacknowledged[key]}))
        except ConnectionClosed:
            return

    def _remove_unacknowledged(self, command_id: int) -> None:
        self.unacknowledged.pop(self._keys.pop(command_id, ""), None)
        if not self.unacknowledged:
            self.all_acknowledged.set()

    def _show_message(self, message: dict[str, Any]) -> None:
        data = message["data"]
        show(f"{data['name']}: {data['text']}" if isinstance(data, dict) and "text" in data else str(data))

    def _reconnect_delay(self, code: int | None) -> float:
        """Return the seconds to wait after a close with *code*; full jitter below a bound that doubles."""
        if code in STOP_CODES:
            raise Stopped(f"the gateway closed with {code}")
        announced, self._announced_delay = self._announced_delay, 0.0
        if announced and code in {DRAIN, None}:
            return announced
        doubling = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**self._attempt)
        self._attempt += 1
        return random.uniform(0, MAX_BACKOFF_SECONDS if code in LONG_BACKOFF_CODES else doubling)


def show(line: str) -> None:
    """Print *line* at once, without characters that a terminal would interpret."""
    print("".join(character for character in line if character.isprintable()), flush=True)


async def publish_input(chat: Chat) -> None:
    """Publish every line of standard input; return once the last one is acknowledged."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := (await reader.readline()).decode():
            if text := line.strip():
                await chat.publish(text)
        await chat.all_acknowledged.wait()
    finally:
        transport.close()


async def main() -> None:
    """Chat until Ctrl-D."""
    parser = argparse.ArgumentParser(description="A chat in the terminal.")
    parser.add_argument("channel", help="name of a channel in the namespace `chat`")
    parser.add_argument("--name", default=os.environ.get("USER", "somebody"))
    parser.add_argument("--url", default="ws://127.0.0.1:8000/v1/ws")
    parser.add_argument("--token", default=os.environ.get("TOKEN"), help="for a gateway that requires one")
    arguments = parser.parse_args()
    chat = Chat(f"chat:{arguments.channel}", arguments.name, arguments.token)
    connection = asyncio.ensure_future(chat.run(arguments.url))
    input_lines = asyncio.ensure_future(publish_input(chat))
    done, _ = await asyncio.wait({connection, input_lines}, return_when=asyncio.FIRST_COMPLETED)
    for task in (connection, input_lines):
        task.cancel()
    await asyncio.gather(connection, input_lines, return_exceptions=True)
    for task in done:
        task.result()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except Stopped as reason:
        sys.exit(str(reason))
    except KeyboardInterrupt:
        sys.exit(130)
