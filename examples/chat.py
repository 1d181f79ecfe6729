"""A chat in the terminal.

Start a gateway with `make run`, then this in two terminals, as different people:

    .venv/bin/python examples/chat.py lobby --name ann

Lines that you type go to everybody in the room; Ctrl-D leaves. Beside the conversation this shows what a
client owes its user: it resumes where it was cut off and says when that is not possible, sends again what was
not confirmed (under the same key: with a token, nobody reads it twice), answers pings, and does on each close
code what docs/protocol.md says.
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

STOP = {1002, 1007, 1009, 4002, 4003, 4004, 4005, 4012}
"""Close codes after which to stay away; 4004 is among them because nobody here can fetch another token."""
LONG = {4008, 4010}
DRAIN = 4000
PASSING = {"rate_limited", "unavailable", "internal"}


class Ended(Exception):
    """There is no use in coming back."""


class Chat:
    """One person in one room, from one connection to the next."""

    def __init__(self, room: str, name: str, token: str | None) -> None:
        self.channel = f"chat:{room}"
        self.name = name
        self.token = token
        self.since: str | None = None
        self.unconfirmed: dict[str, dict[str, str]] = {}
        self.confirmed = asyncio.Event()
        self.confirmed.set()
        self._socket: ClientConnection | None = None
        self._ids = itertools.count(2)
        self._keys: dict[int, str] = {}
        self._told_to_wait = 0.0
        self._attempts = 0

    async def stay(self, url: str) -> None:
        """Talk, and come back after every loss, until a close code says to stop."""
        while True:
            code = None
            try:
                async with connect(url, subprotocols=[Subprotocol("fanway.v1.json")]) as socket:
                    code = await self._talk(socket)
            except InvalidStatus as refused:
                if refused.response.status_code not in {429, 503}:
                    raise Ended(f"refused: {refused.response.body.decode()}") from None
                self._told_to_wait = float(refused.response.headers.get("Retry-After", 0))
            except (OSError, WebSocketException) as error:
                show(f"no gateway: {error}")
            wait = self._wait(code)
            show(f"connecting again in {wait:.1f} s")
            await asyncio.sleep(wait)

    async def say(self, text: str) -> None:
        """Publish a line; it is sent again until the gateway has confirmed it."""
        key = uuid.uuid4().hex
        self.unconfirmed[key] = {"name": self.name, "text": text}
        self.confirmed.clear()
        await self._send(key)

    async def _talk(self, socket: ClientConnection) -> int | None:
        """Return the close code with which the conversation on *socket* ended; None if it just broke."""
        resume: dict[str, Any] = {"rewind": 10} if self.since is None else {"since": self.since}
        hello = {"type": "connect", "id": 1, "token": self.token, "subs": {self.channel: resume}}
        patience = 10.0
        try:
            await socket.send(json.dumps(hello))
            while True:
                # Silence for longer than the gateway's heartbeat means that there is no connection any more.
                async with asyncio.timeout(patience):
                    said = json.loads(await socket.recv())
                if said["type"] == "connected":
                    patience += said["heartbeat"]
                    self._joined(said["subs"][self.channel])
                    self._socket = socket
                    for key in list(self.unconfirmed):
                        await self._send(key)
                await self._take(socket, said)
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else None
        finally:
            self._socket = None
            self._keys.clear()

    def _joined(self, outcome: dict[str, Any]) -> None:
        if outcome["type"] == "error":
            raise Ended(f"{self.channel}: {outcome['message']}")
        self._attempts = 0
        show(f"in {self.channel}")
        if self.since is not None and not outcome["recovered"]:
            show("some messages are missing here")
        for message in outcome["messages"]:
            self._show(message)
        self.since = outcome.get("position")

    async def _take(self, socket: ClientConnection, said: dict[str, Any]) -> None:
        match said["type"]:
            case "message":
                self._show(said)
                self.since = said.get("message", self.since)
            case "gap":
                show("some messages are missing here")
                self.since = said.get("position", self.since)
            case "join" | "leave":
                show(f"{said['member']['user'] or 'somebody'} {'came' if said['type'] == 'join' else 'left'}")
            case "published":
                self._settle(said["id"])
            case "error" if "id" in said:
                await self._failed(said)
            case "ping":
                await socket.send('{"type": "pong"}')
            case "reconnect":
                self._told_to_wait = said["after_ms"] / 1000

    async def _failed(self, error: dict[str, Any]) -> None:
        if error["code"] in PASSING and error["id"] in self._keys:
            await asyncio.sleep(error.get("retry_after_ms", 1000) / 1000)
            await self._send(self._keys.pop(error["id"]))
        else:
            show(f"{error['code']}: {error['message']}")
            self._settle(error["id"])

    async def _send(self, key: str) -> None:
        if self._socket is None:
            return
        command = next(self._ids)
        self._keys[command] = key
        publish = {"type": "publish", "id": command, "channel": self.channel, "key": key}
        try:
            await self._socket.send(json.dumps(publish | {"data": self.unconfirmed[key]}))
        except ConnectionClosed:
            return

    def _settle(self, command: int) -> None:
        self.unconfirmed.pop(self._keys.pop(command, ""), None)
        if not self.unconfirmed:
            self.confirmed.set()

    def _show(self, message: dict[str, Any]) -> None:
        data = message["data"]
        show(f"{data['name']}: {data['text']}" if isinstance(data, dict) and "text" in data else str(data))

    def _wait(self, code: int | None) -> float:
        """Return after how many seconds to come back after *code*: full jitter, 0.5 s doubling to 30 s."""
        if code in STOP:
            raise Ended(f"the gateway closed with {code}")
        told, self._told_to_wait = self._told_to_wait, 0.0
        if told and code in {DRAIN, None}:
            return told
        bound = 30.0 if code in LONG else min(30.0, 0.5 * 2**self._attempts)
        self._attempts += 1
        return random.uniform(0, bound)


def show(line: str) -> None:
    """Print *line* at once, and without what a terminal would take for a command."""
    print("".join(character for character in line if character.isprintable()), flush=True)


async def typed(chat: Chat) -> None:
    """Say every line of standard input; return once the last one is confirmed."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := (await reader.readline()).decode():
            if text := line.strip():
                await chat.say(text)
        await chat.confirmed.wait()
    finally:
        transport.close()


async def main() -> None:
    """Chat until Ctrl-D."""
    parser = argparse.ArgumentParser(description="A chat in the terminal.")
    parser.add_argument("room")
    parser.add_argument("--name", default=os.environ.get("USER", "somebody"))
    parser.add_argument("--url", default="ws://127.0.0.1:8000/v1/ws")
    parser.add_argument("--token", default=os.environ.get("TOKEN"), help="where the gateway wants one")
    asked = parser.parse_args()
    chat = Chat(asked.room, asked.name, asked.token)
    staying = asyncio.ensure_future(chat.stay(asked.url))
    typing = asyncio.ensure_future(typed(chat))
    done, _ = await asyncio.wait({staying, typing}, return_when=asyncio.FIRST_COMPLETED)
    for task in (staying, typing):
        task.cancel()
    await asyncio.gather(staying, typing, return_exceptions=True)
    for task in done:
        task.result()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except Ended as reason:
        sys.exit(str(reason))
    except KeyboardInterrupt:
        sys.exit(130)
