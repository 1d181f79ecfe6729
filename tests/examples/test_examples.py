"""The examples as people use them: their pages in Chromium, their backends, and a gateway."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.clients.npm import npm
from tests.e2e.browser import Browser, Page, chromium
from tests.e2e.gateway import TIMEOUT_SECONDS
from tests.examples.running import EXAMPLES, Example, example

NAME, TEXT = 'input[name="name"]', 'input[name="text"]'
TOKENS = 80
"""Of an answer of the stand-in model."""


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


def log_in(page: Page, url: str, name: str) -> None:
    page.open(url)
    page.wait(f"document.querySelector({json.dumps(NAME)})?.checkVisibility()")
    page.type(NAME, name)


def go_offline(page: Page, *, offline: bool) -> None:
    page.call(
        "Network.emulateNetworkConditions",
        offline=offline, latency=0, downloadThroughput=-1, uploadThroughput=-1,
    )  # fmt: skip


def texts(selector: str) -> str:
    return f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => each.textContent)"


def wait_for_texts(page: Page, selector: str, expected: list[str]) -> None:
    page.wait(f"JSON.stringify({texts(selector)}) === JSON.stringify({json.dumps(expected)})")


def count_of(page: Page, path: str) -> int:
    """Return how often the page has asked for *path*."""
    page.evaluate("null")
    return sum(url.endswith(path) for url in page.requests())


# ---------------------------------------------------------------- the chat

SENT = ".messages li:not(.pending) .text"
PENDING = ".messages .pending .text"
MEMBERS = ".members li"


def test_chat(browser: Browser, home: Path) -> None:
    with ExitStack() as stack:
        chat = stack.enter_context(example("chat", home))
        ann, ben = (stack.enter_context(browser.page()) for _ in range(2))
        log_in(ann, chat.url, "Ann")
        log_in(ben, chat.url, "Ben")
        for page in (ann, ben):
            wait_for_texts(page, MEMBERS, ["Ann", "Ben"])
        said: list[str] = []
        for part in (they_talk, the_gateway_is_cut_off, ben_has_no_network, tokens_are_replaced):
            said += part(chat, ann, ben, said)
        show(ann, "chat")
        people_leave(browser, chat, ann, ben, said)


def they_talk(_: Example, ann: Page, ben: Page, __: list[str]) -> list[str]:
    said = ["one", "two", "three"]
    for number, text in enumerate(said):
        (ann, ben)[number % 2].type(TEXT, text)
        for page in (ann, ben):
            wait_for_texts(page, SENT, said[: number + 1])
            wait_for_texts(page, PENDING, [])
    return said


def the_gateway_is_cut_off(chat: Example, ann: Page, ben: Page, said: list[str]) -> list[str]:
    """Cut the connections to the gateway; the backend can be reached all the time."""
    chat.road.block()
    for page in (ann, ben):
        page.wait("document.querySelector('#connection').textContent.includes('lost')")
    ben.type(TEXT, "from Ben")
    wait_for_texts(ben, SENT, [*said, "from Ben"])
    ann.type(TEXT, "from Ann")
    wait_for_texts(ann, SENT, [*said, "from Ann"])
    assert ben.evaluate(texts(SENT)) == [*said, "from Ben"]
    chat.road.unblock()
    for page in (ann, ben):
        wait_for_texts(page, SENT, [*said, "from Ben", "from Ann"])
        page.wait("document.querySelector('#connection').textContent === ''")
    return ["from Ben", "from Ann"]


def ben_has_no_network(_: Example, ann: Page, ben: Page, said: list[str]) -> list[str]:
    """Write without a network: it waits, and arrives in the order in which it was written."""
    go_offline(ben, offline=True)
    written = ["six", "seven", "eight"]
    for number, text in enumerate(written):
        ben.type(TEXT, text)
        wait_for_texts(ben, PENDING, written[: number + 1])
    assert ann.evaluate(texts(SENT)) == said
    go_offline(ben, offline=False)
    for page in (ann, ben):
        wait_for_texts(page, SENT, [*said, *written])
    wait_for_texts(ben, PENDING, [])
    return written


def tokens_are_replaced(chat: Example, ann: Page, ben: Page, said: list[str]) -> list[str]:
    """Refuse the token of Ann, and then let the next one expire."""
    written = []
    for code in (4003, 4004):
        before = count_of(ann, "/fanway/token")
        disconnect(chat, "ann", code)
        text = f"after {code}"
        ben.type(TEXT, text)
        written.append(text)
        wait_for_texts(ann, SENT, [*said, *written])
        ann.wait("document.querySelector('#connection').textContent === ''")
        assert count_of(ann, "/fanway/token") == before + 1
    return written


def people_leave(browser: Browser, chat: Example, ann: Page, ben: Page, said: list[str]) -> None:
    with browser.page() as cem:
        log_in(cem, chat.url, "Cem")
        wait_for_texts(cem, SENT, said)
        wait_for_texts(ann, MEMBERS, ["Ann", "Ben", "Cem"])
    wait_for_texts(ann, MEMBERS, ["Ann", "Ben"])
    ben.click("#leave")
    ben.wait(f"!!document.querySelector({json.dumps(NAME)})")
    wait_for_texts(ann, MEMBERS, ["Ann"])
    assert not ann.problems()
    # Ann's session ends elsewhere: her page asks her to log in, and works again.
    ann.evaluate(
        "fetch('/logout', {method: 'POST', headers: {authorization: `Bearer ${sessionStorage.session}`}})"
    )
    disconnect(chat, "ann", 4004)
    ann.wait(f"!!document.querySelector({json.dumps(NAME)})")
    ann.type(NAME, "Ann")
    wait_for_texts(ann, SENT, said)
    # Of two messages that are sent at once, the gateway may get the later one first.
    with chat.admin() as admin:
        admin.publish(
            "chat:lobby", {"number": 0, "id": "published-late", "user": "Cem", "text": "zero", "at": 0}
        )
    wait_for_texts(ann, SENT, ["zero", *said])


def disconnect(running: Example, user: str, code: int) -> None:
    with running.admin() as admin:
        assert admin.disconnect(user, code=code) == 1


# ---------------------------------------------------------------- the notification bell


def test_notifications(browser: Browser, home: Path) -> None:
    with ExitStack() as stack:
        bell = stack.enter_context(example("notifications", home))
        phone, laptop, other = (stack.enter_context(browser.page()) for _ in range(3))
        for page in (phone, laptop):
            # A name that a channel's name cannot have.
            log_in(page, bell.url, "Zoë Lee")
        log_in(other, bell.url, "Ben")
        other.wait("document.querySelector('#page').checkVisibility()")

        def notify(text: str) -> None:
            other.type('#notify input[name="user"]', "Zoë Lee")
            other.type('#notify input[name="text"]', text)

        def wait_for_count(page: Page, count: int) -> None:
            page.wait(f"document.querySelector('#count').textContent === '{count}'")

        notify("Your order is on its way")
        for page in (phone, laptop):
            wait_for_count(page, 1)
        assert other.text("#count") == "0"

        go_offline(phone, offline=True)
        for number, text in enumerate(("It is at your door", "Your neighbour has it")):
            notify(text)
            wait_for_count(laptop, number + 2)
        assert phone.text("#count") == "1"
        go_offline(phone, offline=False)
        everything = ["Your neighbour has it", "It is at your door", "Your order is on its way"]
        wait_for_texts(phone, "#notifications li", everything)
        wait_for_count(phone, 3)

        laptop.click("#bell")
        for page in (phone, laptop):
            wait_for_count(page, 0)
        phone.open(bell.url)
        wait_for_texts(phone, "#notifications li", everything)
        assert phone.text("#count") == "0"
        assert not laptop.problems()
        show(laptop, "notifications")


# ---------------------------------------------------------------- the token stream


def wait_for_words(page: Page, words: int) -> None:
    page.wait(f"document.querySelector('#text').textContent.split(' ').length >= {words}")


def wait_for_state(page: Page, state: str) -> None:
    page.wait(f"document.querySelector('#state').textContent === {json.dumps(state)}")


def ask(page: Page, question: str) -> None:
    page.wait("document.querySelector('#ask').checkVisibility()")
    page.type(TEXT, question)
    page.wait(f"document.querySelector('#question').textContent === {json.dumps(question)}")


def test_token_stream(browser: Browser, home: Path) -> None:
    with ExitStack() as stack:
        llm = stack.enter_context(example("llm_stream", home, TOKEN_DELAY="0.08"))
        one, late = (stack.enter_context(browser.page()) for _ in range(2))
        one.open(llm.url)
        ask(one, "What is a gateway?")
        wait_for_words(one, 5)
        address = one.evaluate("location.href")
        after = len(one.events)
        one.call("Page.reload")
        one.wait_event("Page.loadEventFired", after=after)
        wait_for_words(one, 10)
        llm.road.block()
        late.open(address)
        late.wait("document.querySelector('#text').textContent.split(' ').length >= 10")
        llm.road.unblock()
        wait_for_words(late, 20)
        for page in (one, late):
            wait_for_state(page, "done")
        with llm.admin() as admin:
            id = address.partition("#")[2]
            messages = admin.history(f"answer:{id}", limit=200)["messages"]
        published = "".join(each["data"].get("token", "") for each in messages)
        assert len(published.split(" ")) == TOKENS
        assert one.text("#text") == late.text("#text") == published
        assert not late.problems()
        show(one, "llm_stream")

        # An answer that is done needs no gateway: its channel is forgotten after a while.
        loads = count_of(late, f"/answers/{id}")
        with llm.admin() as admin:
            admin.clear_history(f"answer:{id}")
        late.open("about:blank")
        late.open(address)
        wait_for_state(late, "done")
        assert late.text("#text") == published
        assert count_of(late, f"/answers/{id}") == loads + 1

        ask(one, "What is another gateway?")
        wait_for_words(one, 3)
        late.evaluate(f"void (location.href = {json.dumps(one.evaluate('location.href'))})")
        wait_for_words(late, 4)
        one.click("#stop")
        for page in (one, late):
            wait_for_state(page, "done")
        assert one.text("#text") == late.text("#text")
        assert len(one.text("#text").split(" ")) < TOKENS

        ask(one, "Fail this time")
        wait_for_state(one, "The answer ended with an error.")


def show(page: Page, name: str) -> None:
    """Keep pictures of the page, light and dark, wide and narrow; it may be no wider than a phone."""
    page.call("Page.bringToFront")
    for width, scheme in ((1280, "light"), (360, "dark")):
        page.look(width, 800, scheme)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(Path("artifacts") / f"example-{name}-{width}-{scheme}.png")


# ---------------------------------------------------------------- the command that runs them


USES_GATEWAY = {
    "chat": ("GET", "/rooms/lobby/messages"),
    "notifications": ("GET", "/notifications"),
    "llm_stream": ("POST", "/ask"),
}


# Ctrl-C, `kill`, and a terminal that is closed.
@pytest.mark.parametrize(
    ("name", "end", "statuses"),
    [
        ("chat", signal.SIGINT, {0, 130}),
        ("notifications", signal.SIGTERM, {143}),
        ("llm_stream", signal.SIGHUP, {143}),
    ],
)
def test_one_command_runs_it_until_it_is_ended(
    name: str, end: signal.Signals, statuses: set[int], tmp_path: Path
) -> None:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("FANWAY_")}
    free_ports = {"FANWAY_LISTEN__PUBLIC__PORT": "0", "FANWAY_LISTEN__INTERNAL__PORT": "0"}
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "run.py"), name, "--port", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env=inherited | free_ports,
    ) as command:
        try:
            assert command.stdout is not None
            page = next(line.split()[1] for line in command.stdout if line.startswith(f"{name}: "))
            with httpx.Client(base_url=page, timeout=TIMEOUT_SECONDS, trust_env=False) as visitor:
                assert "</html>" in visitor.get("/").text
                session = visitor.post("/login", json={"name": "Ann"}).json()["session"]
                visitor.headers["authorization"] = f"Bearer {session}"
                gateway = visitor.get("/me").json()["gateway"]
                token = visitor.get("/fanway/token").text
                # The backend reaches the gateway, and so does the page.
                answer = visitor.request(*USES_GATEWAY[name], json={"text": "What is a gateway?"})
                assert answer.status_code == 200, answer.text
            with connect(gateway, origin=Origin(page.rstrip("/")), proxy=None) as socket:
                socket.send(json.dumps({"type": "connect", "id": 1, "token": token}))
                assert json.loads(socket.recv(TIMEOUT_SECONDS))["type"] == "connected"
        finally:
            command.send_signal(end)
            assert command.wait(TIMEOUT_SECONDS) in statuses
    with pytest.raises(ConnectionRefusedError):
        connect(gateway, proxy=None)


# ---------------------------------------------------------------- their code


def test_types_of_the_pages() -> None:
    npm("run", "check", cwd=EXAMPLES)


def test_the_lock_file_names_no_address() -> None:
    assert '"resolved"' not in (EXAMPLES / "package-lock.json").read_text()
