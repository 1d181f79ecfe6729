"""Helpers of the demo page's tests: opening the page, another client, and conditions on its content."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from time import sleep
from typing import Any

import httpx
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection
from websockets.typing import Subprotocol

from tests.e2e.browser import Event, Page
from tests.e2e.gateway import FANWAY, HEADERS, TIMEOUT_SECONDS, GatewayProcess

CONNECTED = "document.body.dataset.state === 'connected' && document.querySelector('#connection').textContent"
# Channels that no other test uses.
names = (f"channel-{number}" for number in count(1))


def open_page(tab: Page, gateway: GatewayProcess, channel: str, *, name: str = "Ada") -> None:
    """Open the page as the user *name*; wait until it is connected, and the only member of *channel*."""
    tab.open(f"http://127.0.0.1:{gateway.internal}/?name={name}#{channel}")
    tab.wait(CONNECTED)
    tab.wait("document.querySelector('#present').textContent === '1'")


def push(gateway: GatewayProcess, path: str, body: dict[str, Any]) -> Any:
    """Return the answer of the push API, which must be a success."""
    url = f"http://127.0.0.1:{gateway.internal}/v1/{path}"
    return httpx.post(url, json=body, headers=HEADERS, trust_env=False).raise_for_status().json()


def publish(gateway: GatewayProcess, channel: str, *texts: str) -> None:
    commands = [{"publish": {"channel": channel, "data": {"text": text}}} for text in texts]
    push(gateway, "batch", {"commands": commands})


@contextmanager
def another_client(gateway: GatewayProcess, channel: str, *, user: str = "") -> Iterator[Connection]:
    """Yield another client that is subscribed to *channel*: of *user*, or anonymous."""
    url = f"http://127.0.0.1:{gateway.internal}/demo/token?user={user}"
    token = httpx.post(url, trust_env=False).raise_for_status().json()["token"] if user else None
    with ExitStack() as stack:
        socket = _connected(stack, f"ws://127.0.0.1:{gateway.public}/v1/ws")
        who = {"token": token} if token else {}
        for number, command in enumerate(
            ({"type": "connect", **who}, {"type": "subscribe", "channel": channel})
        ):
            socket.send(json.dumps({"id": number + 1, **command}))
        until(socket, type="subscribed")
        yield socket


def _connected(stack: ExitStack, address: str) -> Connection:
    """Connect, again after a 503: on a busy machine the gateway may be overloaded."""
    while True:
        try:
            json_only = [Subprotocol("fanway.v1.json")]
            return stack.enter_context(connect(address, subprotocols=json_only, max_queue=None, proxy=None))
        except InvalidStatus as rejection:
            if rejection.response.status_code != 503:
                raise
            sleep(float(rejection.response.headers["retry-after"]))


def until(socket: Connection, **fields: object) -> Event:
    """Return the next message that has these *fields*."""
    while not fields.items() <= (message := json.loads(socket.recv(timeout=TIMEOUT_SECONDS))).items():
        pass
    return dict(message)


def numbers(page: Page, selector: str = ".message") -> list[int]:
    """Return the numbers of the messages, in the order in which they are shown."""
    shown: list[str] = page.evaluate(
        f"[...document.querySelectorAll('{selector} .number')].map((number) => number.textContent)"
    )
    return [int(number.removeprefix("#")) for number in shown]


def message_texts(page: Page) -> list[str]:
    """Return the texts of the messages, in order."""
    texts: list[str] = page.evaluate("[...document.querySelectorAll('.data')].map((row) => row.textContent)")
    return texts


def has_text(text: str, selector: str = ".data") -> str:
    """Return the JavaScript condition that an element has exactly this *text*."""
    found = f"[...document.querySelectorAll('{selector}')]"
    return f"{found}.some((element) => element.textContent === {json.dumps(text)})"


def carries(kind: str) -> Callable[[Event], bool]:
    """Return a predicate: whether an event is a frame with a message of the type *kind*."""
    return lambda event: json.loads(event["response"]["payloadData"])["type"] == kind


@contextmanager
def restartable(home: Path, predecessor: GatewayProcess | None = None) -> Iterator[GatewayProcess]:
    """Run a gateway that the test may stop in any way, on the ports of *predecessor* or on free ones."""
    public, internal = (predecessor.public, predecessor.internal) if predecessor else (0, 0)
    errors = home / "stderr.log"
    with (
        errors.open("w") as log,
        subprocess.Popen(
            [FANWAY, "serve", "--dev", f"--port={public}", f"--internal-port={internal}"],
            cwd=home,
            env={name: value for name, value in os.environ.items() if not name.startswith("FANWAY_")},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            yield GatewayProcess(process, errors)
        finally:
            process.kill()
