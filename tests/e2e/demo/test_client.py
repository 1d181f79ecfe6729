"""How the demo page stays connected, and what its client.js can do beyond what the page needs."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import time

import pytest

from tests.e2e.browser import Browser, Page
from tests.e2e.demo.kit import CONNECTED, framed, publish, push, rows, says, serving, show
from tests.e2e.gateway import Served, served, token


@pytest.fixture(scope="module")
def gateway(home: Path) -> Iterator[Served]:
    """One that asks after half a second of silence, while the page itself speaks every two."""
    with served(home, HEARTBEAT__INTERVAL="500ms", HEARTBEAT__GRACE="5s") as running:
        yield running


def test_it_answers_the_servers_pings(page: Page) -> None:
    page.wait_event("Network.webSocketFrameReceived", framed("ping"))
    page.wait_event("Network.webSocketFrameSent", framed("pong"))


def test_what_it_missed_offline_is_recovered(page: Page, gateway: Served, channel: str) -> None:
    publish(gateway, channel, "before")
    page.wait(says("before"))
    page.click("#toggle")
    page.wait("document.querySelector('#state').textContent === 'Offline'")
    publish(gateway, channel, *(f"missed {number}" for number in range(60)))
    page.type("#text", "too early")
    page.wait(says("Not sent: not connected", "#sent"))
    assert page.evaluate("document.querySelector('#text').value") == "too early"
    page.click("#toggle")
    page.wait(says("Recovered 60 messages, nothing lost", ".note"))
    assert rows(page) == ["before", *(f"missed {number}" for number in range(60))]
    page.wait("document.querySelector('#total').textContent === '61'")
    page.click("#toggle")
    page.wait("document.querySelector('#state').textContent === 'Offline'")
    publish(gateway, channel, "missed again")
    page.click("#toggle")
    page.wait(says("Recovered 1 message, nothing lost", ".note"))
    assert rows(page)[-2:] == ["missed 59", "missed again"]


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGTERM, "the server shuts down"), (signal.SIGKILL, "without a goodbye")]
)
def test_it_comes_back_to_a_gateway_that_was_restarted(
    browser: Browser, tmp_path: Path, channel: str, number: signal.Signals, end: str
) -> None:
    with ExitStack() as first, browser.page() as page:
        gateway = first.enter_context(serving(tmp_path))
        show(page, gateway, channel)
        publish(gateway, channel, "before")
        page.wait(says("before"))
        gateway.signal(number)
        page.wait(says(f"Connection ended ({end})", ".note"))
        first.close()
        page.wait("document.querySelector('#state').textContent.startsWith('Retry in ')")
        with serving(tmp_path, gateway) as second:
            page.wait(CONNECTED)
            page.wait("document.querySelector('.note.gap')")
            publish(second, channel, "after")
            page.wait(says("after"))
            assert rows(page) == ["before", "after"]
            assert page.problems() == []


# ---------------------------------------------------------------- client.js beyond what the page needs


def test_reconnects_are_spread_over_a_time_that_doubles(browser: Browser, gateway: Served) -> None:
    with browser.page() as page:
        page.open(f"http://127.0.0.1:{gateway.internal}/demo/where")
        waits = page.evaluate(
            """(async () => {
                const {Client} = await import("/demo/client.js");
                const client = new Client("ws://127.0.0.1:1/v1/ws");
                const waits = [];
                return new Promise((done) => {
                    client.addEventListener("state", ({detail}) => {
                        if (detail.state === "waiting") waits.push(detail.wait);
                        if (waits.length === 3) { client.close(); done(waits); }
                    });
                    client.open();
                });
            })()"""
        )
        assert all(0 <= wait <= most for wait, most in zip(waits, (500, 1000, 2000), strict=True)), waits


def test_a_channel_left_before_it_was_entered_is_not_heard_of(
    browser: Browser, gateway: Served, channel: str
) -> None:
    left, kept = f"{channel}-left", f"{channel}-kept"
    publish(gateway, left, "not for us")
    publish(gateway, kept, "for us")
    with browser.page() as page:
        page.open(f"http://127.0.0.1:{gateway.internal}/demo/where")
        heard = page.evaluate(
            f"""(async () => {{
                const {{Client}} = await import("/demo/client.js");
                const client = new Client("ws://127.0.0.1:{gateway.public}/v1/ws");
                const [heard, connected] = [[], new Promise((done) => {{
                    client.addEventListener("state", ({{detail}}) => detail.state === "connected" && done());
                }})];
                client.open();
                await connected;
                client.addEventListener("subscribed", ({{detail}}) => heard.push(detail.channel));
                return new Promise((done) => {{
                    client.addEventListener("message", ({{detail}}) => {{
                        heard.push(detail.data.text);
                        if (detail.channel === "{kept}") {{ client.close(); done(heard); }}
                    }});
                    client.subscribe("{left}", {{rewind: 1}});
                    client.unsubscribe("{left}");
                    client.subscribe("{kept}", {{rewind: 1}});
                }});
            }})()"""
        )
        assert heard == [kept, "for us"]


def test_with_a_token_it_refreshes_resumes_its_personal_channel_and_stops_when_told(
    browser: Browser, gateway: Served
) -> None:
    now = time()
    tokens = [token("ann", now=now, ttl=4), token("ann", now=now), token("ann", now=now)]
    with browser.page() as page:
        page.open(f"http://127.0.0.1:{gateway.internal}/demo/where")
        page.evaluate(
            f"""(async () => {{
                const {{Client}} = await import("/demo/client.js");
                const [tokens, log] = [{json.dumps(tokens)}, document.body];
                log.textContent = "";
                const url = "ws://127.0.0.1:{gateway.public}/v1/ws";
                window.client = new Client(url, {{token: async () => tokens.shift()}});
                const note = (...words) => log.append(Object.assign(document.createElement("p"), {{
                    className: "data", textContent: words.join(" "),
                }}));
                client.addEventListener("state", ({{detail}}) => note(detail.state, detail.code ?? ""));
                client.addEventListener("subscribed", ({{detail}}) => note(detail.channel, detail.recovered));
                client.addEventListener("message", ({{detail}}) => note(detail.data, !!detail.replayed));
                client.open();
            }})()"""
        )
        page.wait(says("@ann false"))
        push(gateway, "notify", {"users": ["ann"], "data": "one"})
        page.wait(says("one false"))
        page.wait_event("Network.webSocketFrameReceived", framed("refreshed"))
        page.evaluate("client.close()")
        push(gateway, "notify", {"users": ["ann"], "data": "two"})
        page.evaluate("client.open()")
        page.wait(says("two true"))
        push(gateway, "users/ann/disconnect", {})
        page.wait(says("closed 4005"))
        assert rows(page) == [
            "connecting ",
            "connected ",
            "@ann false",
            "one false",
            "closed 1000",
            "connecting ",
            "connected ",
            "@ann true",
            "two true",
            "closed 4005",
        ]
        assert page.problems() == []
