"""The TypeScript client in Chromium: networks that go, pages that sleep, two tabs, a worker, React."""

import itertools
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.clients.npm import bundle
from tests.e2e.browser import Browser, Page
from tests.e2e.demo.kit import push
from tests.e2e.gateway import GatewayProcess, token

numbers = itertools.count(1)
MESSAGES = "[...document.querySelectorAll('#messages li')].map((item) => item.textContent).join()"
STATES = "[...document.querySelectorAll('#states li')].map((item) => item.textContent).join()"
GAPS = "document.querySelectorAll('#gaps li').length"


@pytest.fixture(scope="module")
def site(home: Path) -> Iterator[str]:
    """The address of a site with the pages of `clients/typescript/test/browser`."""
    root = home / "site"
    root.mkdir()
    for source, script in (("page.ts", "page.js"), ("worker.ts", "worker.js"), ("app.tsx", "app.js")):
        bundle(source, root / script)
        html = f"<!doctype html><link rel=icon href=data:,><body><script type=module src={script}></script>"
        (root / script).with_suffix(".html").write_text(html)
    (root / "elsewhere.html").write_text("<!doctype html><link rel=icon href=data:,><p>elsewhere")
    with served(root) as address:
        yield address


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the files of *folder* by a process of its own, which may keep the browser's connections."""
    command = (
        sys.executable,
        "-u",
        "-m",
        "http.server",
        "0",
        "--bind",
        "127.0.0.1",
        "--directory",
        str(folder),
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = re.search(r"port (\d+)", server.stdout.readline())
            assert port is not None
            yield f"http://127.0.0.1:{port[1]}"
        finally:
            server.kill()


@pytest.fixture
def channel() -> str:
    return f"browser:{next(numbers)}"


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    with browser.page() as page:
        yield page
        assert page.problems() == []


def publish(gateway: GatewayProcess, channel: str, *texts: str) -> None:
    """Publish each text, in this order."""
    push(gateway, "batch", {"commands": [{"publish": {"channel": channel, "data": text}} for text in texts]})


def query(gateway: GatewayProcess, channel: str, user: str = "ann", **more: str) -> str:
    """Return what a page needs to connect."""
    return urlencode(
        {
            "url": f"ws://127.0.0.1:{gateway.public}/v1/ws",
            "channel": channel,
            "token": token(user, now=time.time()),
            **more,
        }
    )


def connected(tab: Page, site: str, gateway: GatewayProcess, channel: str) -> None:
    """Open the page of one client, and wait until it is subscribed."""
    tab.open(f"{site}/page.html?{query(gateway, channel)}")
    tab.wait(f"{STATES}.endsWith('connected') || ''")
    publish(gateway, channel, "first")
    tab.wait(f"{MESSAGES} === 'first'")


def test_messages_of_a_time_offline_arrive_in_order(
    tab: Page, site: str, gateway: GatewayProcess, channel: str
) -> None:
    connected(tab, site, gateway, channel)
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    for turn in range(2):
        tab.call("Network.emulateNetworkConditions", offline=True, **offline)
        tab.evaluate("fanway._connection._lost('cut by the test')")
        tab.wait(f"{STATES}.endsWith('waiting')")
        publish(gateway, channel, f"a{turn}", f"b{turn}")
        tab.call("Network.emulateNetworkConditions", offline=False, **offline)
        tab.wait(f"{MESSAGES}.endsWith('b{turn}')")
    assert tab.evaluate(MESSAGES) == "first,a0,b0,a1,b1"
    assert tab.evaluate(GAPS) == 0


def test_a_frozen_page_has_every_message_when_it_wakes_up(
    tab: Page, site: str, gateway: GatewayProcess, channel: str
) -> None:
    connected(tab, site, gateway, channel)
    tab.call("Page.setWebLifecycleState", state="frozen")
    publish(gateway, channel, "asleep")
    tab.call("Page.setWebLifecycleState", state="active")
    publish(gateway, channel, "awake")
    tab.wait(f"{MESSAGES} === 'first,asleep,awake'")
    assert tab.evaluate(GAPS) == 0


def test_a_page_from_the_back_forward_cache_goes_on(
    tab: Page, site: str, gateway: GatewayProcess, channel: str
) -> None:
    connected(tab, site, gateway, channel)
    tab.evaluate("window.marked = true")
    tab.open(f"{site}/elsewhere.html")
    publish(gateway, channel, "away")
    tab.evaluate("setTimeout(() => history.back())")
    tab.wait_event("Page.frameNavigated", lambda event: event.get("type") == "BackForwardCacheRestore")
    publish(gateway, channel, "back")
    tab.wait(f"{MESSAGES} === 'first,away,back'")
    assert tab.evaluate("window.marked") is True
    assert tab.evaluate(GAPS) == 0


def test_two_tabs_see_each_other(
    browser: Browser, tab: Page, site: str, gateway: GatewayProcess, channel: str
) -> None:
    tab.open(f"{site}/page.html?{query(gateway, channel, 'ann', presence='1')}")
    tab.wait("document.querySelector('#users').textContent === 'ann'")
    with browser.page() as other:
        other.open(f"{site}/page.html?{query(gateway, channel, 'ben', presence='1')}")
        other.wait("document.querySelector('#users').textContent === 'ann,ben'")
        tab.wait("document.querySelector('#users').textContent === 'ann,ben'")
        publish(gateway, channel, "hello")
        for page in (tab, other):
            page.wait(f"{MESSAGES} === 'hello'")
    tab.wait("document.querySelector('#users').textContent === 'ann'")


def test_a_worker(tab: Page, site: str, gateway: GatewayProcess, channel: str) -> None:
    tab.open(f"{site}/elsewhere.html")
    tab.evaluate(
        f"""
        document.body.innerHTML = "<ol id=messages></ol>";
        window.worker = new Worker("worker.js?{query(gateway, channel)}", {{type: "module"}});
        worker.onmessage = ({{data}}) => {{
            const item = document.createElement("li");
            item.textContent = data;
            document.querySelector("#messages").append(item);
        }};
        undefined
        """
    )
    tab.wait(f"{MESSAGES}.endsWith('connected')")
    publish(gateway, channel, "to a worker")
    tab.wait(f"{MESSAGES}.endsWith('to a worker')")
    assert tab.evaluate(MESSAGES) == "connecting,connected,to a worker"


def test_react_shows_a_message_before_it_is_sent(
    tab: Page, site: str, gateway: GatewayProcess, channel: str
) -> None:
    tab.open(f"{site}/app.html?{query(gateway, channel, optimistic='yes')}")
    tab.wait("document.querySelector('#channel')?.textContent === 'live'")
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    tab.call("Network.emulateNetworkConditions", offline=True, **offline)
    tab.evaluate("client._connection._lost('cut by the test')")
    tab.wait("document.querySelector('#connection').textContent === 'waiting'")
    tab.click("#publish")
    tab.wait(f"{MESSAGES} === 'from the page'")
    status = "document.querySelector('#messages li').dataset.status"
    assert tab.evaluate(status) == "pending"
    tab.evaluate("void (window.item = document.querySelector('#messages li'))")
    publish(gateway, channel, "meanwhile")
    tab.call("Network.emulateNetworkConditions", offline=False, **offline)
    tab.wait(f"{MESSAGES} === 'meanwhile,from the page'")
    tab.wait("window.item.dataset.status === 'sent'")


def test_react_in_strict_mode(tab: Page, site: str, gateway: GatewayProcess, channel: str) -> None:
    tab.open(f"{site}/app.html?{query(gateway, channel)}")
    tab.wait("document.querySelector('#connection')?.textContent === 'connected'")
    tab.wait("document.querySelector('#channel')?.textContent === 'live'")
    tab.wait("document.querySelector('#users')?.textContent === 'ann'")
    for number in range(1, 5):
        publish(gateway, channel, f"m{number}")
    tab.wait(f"{MESSAGES} === 'm2,m3,m4'")
    assert tab.text("#latest") == "m4"
    tab.click("#publish")
    tab.wait(f"{MESSAGES} === 'm3,m4,from the page'")
    sent = [event for event in tab.events if event["method"] == "Network.webSocketCreated"]
    assert len(sent) == 1
    tab.click("#toggle")
    tab.wait("!document.querySelector('#channel')")
    publish(gateway, channel, "unseen")
    tab.click("#toggle")
    tab.wait("document.querySelector('#channel')?.textContent === 'live'")
    tab.wait("document.querySelector('#users')?.textContent === 'ann'")
