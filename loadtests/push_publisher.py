"""A backend that publishes through the push API: single messages, batches and broadcasts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from locust.contrib.fasthttp import FastHttpSession

from loadtests import payload
from loadtests.metrics import ProcessMetrics


class PushPublisher:
    """Publishes over one HTTP session, one request at a time, and records every message in the metrics.

    A request without a response leaves its messages unacknowledged: each may be delivered or not, but once.
    """

    def __init__(
        self, name: str, http: FastHttpSession, metrics: ProcessMetrics, *, key: str, padding: int
    ) -> None:
        """Publish as *name* with the push *key*; each message has *padding* additional characters."""
        self.name = name
        self._http = http
        self._metrics = metrics
        self._padding = padding
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def publish(self, channel: str) -> None:
        """Publish one message."""
        number, data = self._next_message(self.name, channel)
        response = self._post("push", "/v1/publish", {"channel": channel, "data": data})
        if response is not None:
            self._record_result(self.name, channel, number, response)

    def batch(self, channels: Sequence[str]) -> None:
        """Publish a message to each of *channels*, which may repeat, in one request and in this order."""
        messages = [(channel, *self._next_message(self.name, channel)) for channel in channels]
        commands = [{"publish": {"channel": channel, "data": data}} for channel, _, data in messages]
        response = self._post("push.batch", "/v1/batch", {"commands": commands})
        if response is not None:
            for (channel, number, _), result in zip(messages, response["results"], strict=True):
                self._record_result(self.name, channel, number, result)

    def broadcast(self, channels: Sequence[str]) -> None:
        """Publish the same message once to all of *channels*; every call must name the same channels."""
        publisher = f"{self.name}.all"
        # The broadcast has one payload and so one number: it is the same in every channel, because each
        # channel gets every broadcast.
        numbers = {self._metrics.deliveries.record_attempt(channel, publisher) for channel in channels}
        (number,) = numbers
        data = payload.build(publisher, number, padding=self._padding)
        response = self._post("push.broadcast", "/v1/broadcast", {"channels": list(channels), "data": data})
        if response is not None:
            for channel, result in zip(channels, response["results"], strict=True):
                self._record_result(publisher, channel, number, result)

    def _next_message(self, publisher: str, channel: str) -> tuple[int, dict[str, Any]]:
        number = self._metrics.deliveries.record_attempt(channel, publisher)
        return number, payload.build(publisher, number, padding=self._padding)

    def _post(self, kind: str, path: str, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the decoded response; None where there is none, or an error, which is recorded."""
        started_ns = time.perf_counter_ns()
        response = self._http.post(path, data=orjson.dumps(body).decode(), headers=self._headers, name=kind)
        if response.status_code != 200:
            code = f"http_{response.status_code}"
            self._metrics.record_error(code, f"{path}: {response.status_code} {(response.text or '')[:200]}")
            return None
        try:
            decoded: Mapping[str, Any] = orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            self._metrics.record_error("http_body", f"{path}: {response.status_code}, truncated: {error}")
            return None
        self._metrics.timings[kind].record((time.perf_counter_ns() - started_ns) // 1000)
        return decoded

    def _record_result(self, publisher: str, channel: str, number: int, result: Mapping[str, Any]) -> None:
        if error := result.get("error"):
            self._metrics.record_error(error["code"], f"{channel}: {error['message']}")
        else:
            self._metrics.deliveries.record_acknowledgement(channel, publisher, number, result.get("message"))
