"""A headless Chromium, driven over its DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/ is the reference of every method and event named here.
"""

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

from websockets.sync.client import connect
from websockets.sync.connection import Connection

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# What anything may take before the test fails; far more than a busy machine needs.
TIMEOUT_SECONDS = 40.0
# Windows narrower than this, in CSS pixels, are phones.
PHONE = 600

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--lang=en-US",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--password-store=basic",
    "--remote-debugging-port=0",
)

# Resolves with the first true value of an expression, looked at again whenever the document changes.
SOON = """new Promise((found) => {
    const observer = new MutationObserver(look);
    function look() {
        const value = (%s);
        if (value) { observer.disconnect(); found(value); }
    }
    observer.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
    look();
})"""

Event = dict[str, Any]


@contextmanager
def chromium(profile: Path) -> Iterator["Browser"]:
    """Run a Chromium that keeps all it writes in *profile*; it and its helpers are gone afterwards."""
    with (
        _running(profile) as address,
        connect(address, max_size=None, max_queue=None, proxy=None) as devtools,
    ):
        browser = Browser(devtools)
        yield browser
        browser.call("Browser.close")


@contextmanager
def _running(profile: Path) -> Iterator[str]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    assert program is not None, f"none of {', '.join(PROGRAMS)} is installed: `make test` installs one"
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    said = deque[str](maxlen=50)
    # Whatever else it logs is read as well, so that it never waits for a reader.
    reader = Thread(target=said.extend, args=(process.stderr,))
    try:
        yield _address(process.stderr, said, reader)
    finally:
        _end(process)
        if reader.ident is not None:
            reader.join()
        process.stderr.close()


def _address(log: Iterable[str], said: deque[str], reader: Thread) -> str:
    for line in log:
        said.append(line)
        if line.startswith("DevTools listening on "):
            reader.start()
            return line.split()[-1]
    raise AssertionError("Chromium does not start:\n" + "".join(said))


def _end(process: subprocess.Popen[str]) -> None:
    """Give it the time to end by itself, then end what is left of its process group, its helpers with it."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Browser:
    """A Chromium that runs, at the other end of its DevTools connection."""

    def __init__(self, devtools: Connection) -> None:
        self._devtools = devtools
        self._ids = itertools.count(1)
        self._pages: dict[str, Page] = {}

    @contextmanager
    def page(self) -> Iterator["Page"]:
        """Open a tab for the time of a `with`."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.call(f"{domain}.enable")
            page.look(1280, 800)
            yield page
        finally:
            del self._pages[session]
            self.call("Target.closeTarget", targetId=target)

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Return the result of a method; what happens meanwhile goes to the pages."""
        deadline = monotonic() + TIMEOUT_SECONDS
        command = {"id": next(self._ids), "method": method, "params": params}
        self._devtools.send(json.dumps(command | ({"sessionId": session} if session else {})))
        while (message := self._receive(deadline)).get("id") != command["id"]:
            pass
        assert "error" not in message, f"{method}: {message['error']}"
        result: dict[str, Any] = message["result"]
        return result

    def receive_event(self, deadline: float) -> None:
        """Wait until a page, whichever, has another event."""
        while "id" in self._receive(deadline):
            pass

    def _receive(self, deadline: float) -> Event:
        message: Event = json.loads(self._devtools.recv(timeout=max(0.0, deadline - monotonic())))
        if page := self._pages.get(message.get("sessionId", "")):
            page.happened(message)
        return message


class Page:
    """One tab: what a person does in it, and what they would find in its developer tools."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.events: list[Event] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def happened(self, event: Event) -> None:
        if "method" in event:
            self.events.append(event)

    def wait_event(self, method: str, matches: Callable[[Event], bool] = bool, *, after: int = 0) -> Event:
        """Return the first event of that kind since the *after*th of all, waiting for it."""
        deadline = monotonic() + TIMEOUT_SECONDS
        while True:
            for event in self.events[after:]:
                if event["method"] == method and matches(event["params"]):
                    return event
            self._browser.receive_event(deadline)

    def open(self, url: str) -> None:
        since = len(self.events)
        self.call("Page.navigate", url=url)
        self.wait_event("Page.loadEventFired", after=since)

    def reload(self) -> None:
        since = len(self.events)
        self.call("Page.reload")
        self.wait_event("Page.loadEventFired", after=since)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or what its promise resolves with."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait(self, condition: str) -> Any:
        """Return the first true value of an expression, waiting for the document to become so."""
        try:
            return self.evaluate(SOON % condition)
        except TimeoutError:
            shown = self.evaluate("document.body.innerText")
            raise AssertionError(f"never true: {condition}\n{shown}") from None

    def text(self, selector: str) -> str:
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent"))

    def click(self, selector: str) -> None:
        x, y = self.evaluate(
            f"""(() => {{
                const element = document.querySelector({json.dumps(selector)});
                element.scrollIntoView({{block: "nearest"}});
                const {{x, y, width, height}} = element.getBoundingClientRect();
                return [x + width / 2, y + height / 2];
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Replace what a field holds, and press Enter."""
        field = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{field}.focus(); {field}.select()")
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """Show the page in a window of that size, the narrow ones as a phone does, in light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < PHONE}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def bring_to_front(self) -> None:
        """Show this tab: one in the background renders no frames."""
        self.call("Page.bringToFront")

    def screenshot(self, path: Path) -> None:
        """Keep a picture of the whole page, however long."""
        path.parent.mkdir(exist_ok=True)
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def problems(self) -> list[str]:
        """Return the uncaught exceptions, and what the console shows in red, so far.

        But not that a WebSocket was refused: Chromium says so itself, whatever the page makes of it.
        """
        self.evaluate("null")
        return [str(event["params"]) for event in self.events if _is_problem(event)]

    def requests(self) -> list[str]:
        """Return the address of everything that was asked for, WebSockets included."""
        return [
            event["params"].get("url") or event["params"]["request"]["url"]
            for event in self.events
            if event["method"] in {"Network.requestWillBeSent", "Network.webSocketCreated"}
        ]


def _is_problem(event: Event) -> bool:
    match event["method"]:
        case "Runtime.exceptionThrown":
            return True
        case "Runtime.consoleAPICalled":
            return event["params"]["type"] in {"error", "assert"}
        case "Log.entryAdded":
            entry = event["params"]["entry"]
            return entry["level"] == "error" and not entry["text"].startswith("WebSocket connection to ")
    return False
