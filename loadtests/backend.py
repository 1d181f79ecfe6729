"""A backend that publishes through the push API: one message, a batch, or one to many channels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from locust.contrib.fasthttp import FastHttpSession

from loadtests import payload
from loadtests.account import Account


class Backend:
    """What one publisher sends over one HTTP session, one request at a time, and enters into the account.

    A request without an answer leaves its messages unacknowledged: each may arrive or not, but only once.
    """

    def __init__(self, name: str, http: FastHttpSession, account: Account, *, key: str, size: int) -> None:
        self.name = name
        self._http = http
        self._account = account
        self._size = size
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def publish(self, channel: str) -> None:
        """Publish one message."""
        number, data = self._letter(self.name, channel)
        answer = self._post("push", "/v1/publish", {"channel": channel, "data": data})
        if answer is not None:
            self._acknowledge(self.name, channel, number, answer)

    def batch(self, channels: Sequence[str]) -> None:
        """Publish a message to each of *channels*, which may repeat, in one request and in this order."""
        letters = [(channel, *self._letter(self.name, channel)) for channel in channels]
        commands = [{"publish": {"channel": channel, "data": data}} for channel, _, data in letters]
        answer = self._post("push.batch", "/v1/batch", {"commands": commands})
        if answer is not None:
            for (channel, number, _), result in zip(letters, answer["results"], strict=True):
                self._acknowledge(self.name, channel, number, result)

    def broadcast(self, channels: Sequence[str]) -> None:
        """Publish the same message to all of *channels*, each once; always to the same ones."""
        by = f"{self.name}.all"
        # One number for all of them: each channel gets every broadcast, so that they count alike.
        numbers = {self._account.ledger.attempt(channel, by) for channel in channels}
        (number,) = numbers
        data = payload.write(by, number, size=self._size)
        answer = self._post("push.broadcast", "/v1/broadcast", {"channels": list(channels), "data": data})
        if answer is not None:
            for channel, result in zip(channels, answer["results"], strict=True):
                self._acknowledge(by, channel, number, result)

    def _letter(self, by: str, channel: str) -> tuple[int, dict[str, Any]]:
        number = self._account.ledger.attempt(channel, by)
        return number, payload.write(by, number, size=self._size)

    def _post(self, kind: str, path: str, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the answer; None where there is none, or an error."""
        began = time.perf_counter_ns()
        response = self._http.post(path, data=orjson.dumps(body).decode(), headers=self._headers, name=kind)
        if response.status_code != 200:
            code = f"http_{response.status_code}"
            self._account.error(code, f"{path}: {response.status_code} {(response.text or '')[:200]}")
            return None
        try:
            answer: Mapping[str, Any] = orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            self._account.error("http_body", f"{path}: {response.status_code}, cut off: {error}")
            return None
        self._account.timings[kind].record((time.perf_counter_ns() - began) // 1000)
        return answer

    def _acknowledge(self, by: str, channel: str, number: int, result: Mapping[str, Any]) -> None:
        if error := result.get("error"):
            self._account.error(error["code"], f"{channel}: {error['message']}")
        else:
            self._account.ledger.acknowledge(channel, by, number, result.get("message"))
