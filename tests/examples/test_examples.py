"""The examples as people use them: their pages in Chromium, their backends, and a gateway."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.clients.npm import npm
from tests.e2e.browser import Browser, Page, chromium
from tests.e2e.gateway import SECRET, TIMEOUT_SECONDS, gateway_process

EXAMPLES = Path(__file__).parents[2] / "examples"
PUSH_KEY = "a-push-key-of-the-tests"
TOKEN_SECONDS = 6
"""The validity of a token: it is refreshed during each test of some length."""


@pytest.fixture(scope="module", autouse=True)
def _pages() -> None:
    npm("run", "build", cwd=EXAMPLES)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def browser(home: Path) -> Iterator[Browser]:
    with chromium(home / "profile") as running:
        yield running


@contextmanager
def example(name: str, backend: str, home: Path, **environment: str) -> Iterator[str]:
    """Run the gateway and the backend of the example *name*; yields the URL of its page."""
    folder, home = EXAMPLES / name, home / name
    home.mkdir(exist_ok=True)
    config = (folder / "gateway.toml").read_text()
    listening = socket.create_server(("127.0.0.1", 0))
    page = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    settings = {"PUSH__KEYS": PUSH_KEY, "LISTEN__PUBLIC__ALLOWED_ORIGINS": page.rstrip("/")}
    with listening, gateway_process(home, config, dev=False, **settings) as gateway:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "uvicorn", f"{backend}:create_app", "--factory",
                "--fd", str(listening.fileno()), "--log-level", "warning",
                "--timeout-graceful-shutdown", "5",
            ],
            cwd=home,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(EXAMPLES), str(folder)]),
                "GATEWAY_URL": f"http://127.0.0.1:{gateway.public}",
                "GATEWAY_PUSH_URL": f"http://127.0.0.1:{gateway.internal}",
                "GATEWAY_PUSH_KEY": PUSH_KEY,
                "GATEWAY_SECRET": SECRET,
                "TOKEN_SECONDS": str(TOKEN_SECONDS),
                **environment,
            },
            pass_fds=[listening.fileno()],
        )  # fmt: skip
        try:
            yield page
        finally:
            process.terminate()
            try:
                process.wait(TIMEOUT_SECONDS)
            finally:
                process.kill()


def log_in(page: Page, url: str, name: str, field: str = 'input[name="name"]') -> None:
    page.open(url)
    page.wait(f"!!document.querySelector({json.dumps(field)})")
    page.type(field, name)


def go_offline(page: Page, *, offline: bool) -> None:
    page.call(
        "Network.emulateNetworkConditions",
        offline=offline, latency=0, downloadThroughput=-1, uploadThroughput=-1,
    )  # fmt: skip


def texts(selector: str) -> str:
    return f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => each.textContent)"


def wait_for_texts(page: Page, selector: str, expected: list[str]) -> None:
    page.wait(
        f"JSON.stringify({texts(selector)}) === {json.dumps(json.dumps(expected, separators=(',', ':')))}"
    )


# ---------------------------------------------------------------- the chat


def test_chat(browser: Browser, home: Path) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(example("chat", "chat_backend", home))
        ann, ben = (stack.enter_context(browser.page()) for _ in range(2))
        log_in(ann, url, "Ann")
        log_in(ben, url, "Ben")
        for page in (ann, ben):
            wait_for_texts(page, ".members li", ["Ann", "Ben"])
        ann.type('input[name="text"]', "one")
        wait_for_texts(ben, ".messages .text", ["one"])
        ben.type('input[name="text"]', "two")
        for page in (ann, ben):
            wait_for_texts(page, ".messages .text", ["one", "two"])
            assert page.evaluate("document.querySelectorAll('.pending').length") == 0

        go_offline(ben, offline=True)
        ben.wait("document.querySelector('#connection').textContent.includes('lost')")
        ben.type('input[name="text"]', "sent without a network")
        for text in ("three", "four", "five"):
            ann.type('input[name="text"]', text)
            ann.wait(f"{texts('.messages li:not(.pending) .text')}.includes({json.dumps(text)})")
        assert ben.evaluate(texts(".messages .pending .text")) == ["sent without a network"]
        go_offline(ben, offline=False)
        everything = ["one", "two", "three", "four", "five", "sent without a network"]
        for page in (ann, ben):
            wait_for_texts(page, ".messages li:not(.pending) .text", everything)

        after = len(ann.events)
        ann.wait_event(
            "Network.requestWillBeSent",
            lambda params: params["request"]["url"].endswith("/fanway/token"),
            after=after,
        )
        ann.type('input[name="text"]', "with a new token")
        wait_for_texts(ben, ".messages .text", [*everything, "with a new token"])
        ben.open("about:blank")
        wait_for_texts(ann, ".members li", ["Ann"])

        log_in_again = stack.enter_context(browser.page())
        log_in(log_in_again, url, "Cem")
        wait_for_texts(log_in_again, ".messages .text", [*everything, "with a new token"])
        assert not ann.problems()
        show(ann, "chat")


# ---------------------------------------------------------------- the notification bell


def test_notifications(browser: Browser, home: Path) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(example("notifications", "notifications_backend", home))
        phone, laptop, other = (stack.enter_context(browser.page()) for _ in range(3))
        for page in (phone, laptop):
            log_in(page, url, "Ann")
        log_in(other, url, "Ben")

        def notify(text: str) -> None:
            other.wait("!document.querySelector('#page').hidden")
            other.type('#notify input[name="user"]', "Ann")
            other.type('#notify input[name="text"]', text)

        notify("Your order is on its way")
        for page in (phone, laptop):
            page.wait("document.querySelector('#count').textContent === '1'")
        assert other.text("#count") == "0"

        go_offline(phone, offline=True)
        notify("It is at your door")
        laptop.wait("document.querySelector('#count').textContent === '2'")
        assert phone.text("#count") == "1"
        go_offline(phone, offline=False)
        wait_for_texts(phone, "#notifications li", ["It is at your door", "Your order is on its way"])

        laptop.click("#bell")
        for page in (phone, laptop):
            page.wait("document.querySelector('#count').textContent === '0'")
        phone.open(url)
        wait_for_texts(phone, "#notifications li", ["It is at your door", "Your order is on its way"])
        assert phone.text("#count") == "0"
        assert not laptop.problems()
        show(laptop, "notifications")


# ---------------------------------------------------------------- the token stream


def shown(page: Page, words: int) -> None:
    page.wait(f"document.querySelector('#text').textContent.split(' ').length >= {words}")


def test_token_stream(browser: Browser, home: Path) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(example("llm_stream", "llm_backend", home, TOKEN_DELAY="0.08"))
        one, late = (stack.enter_context(browser.page()) for _ in range(2))
        one.open(url)
        one.type('input[name="text"]', "What is a gateway?")
        shown(one, 5)
        address = one.evaluate("location.href")
        after = len(one.events)
        one.call("Page.reload")
        one.wait_event("Page.loadEventFired", after=after)
        shown(one, 15)
        go_offline(one, offline=True)
        go_offline(one, offline=False)
        late.open(address)
        for page in (one, late):
            page.wait("document.querySelector('#state').textContent === 'done'")
        text = one.text("#text")
        assert len(text.split(" ")) == 80
        assert late.text("#text") == text
        assert not late.problems()
        show(one, "llm_stream")

        one.type('input[name="text"]', "What is another gateway?")
        one.wait("document.querySelector('#question').textContent.includes('another')")
        shown(one, 3)
        one.click("#stop")
        one.wait("document.querySelector('#state').textContent === 'done'")
        assert len(one.text("#text").split(" ")) < 80


def show(page: Page, name: str) -> None:
    """Keep pictures of the page, light and dark, wide and narrow; it may be no wider than a phone."""
    page.call("Page.bringToFront")
    for width, scheme in ((1280, "light"), (360, "dark")):
        page.look(width, 800, scheme)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(Path("artifacts") / f"example-{name}-{width}-{scheme}.png")


# ---------------------------------------------------------------- their code


def test_types_of_the_pages() -> None:
    npm("run", "check", cwd=EXAMPLES)


def test_the_lock_file_names_no_address() -> None:
    assert '"resolved"' not in (EXAMPLES / "package-lock.json").read_text()
