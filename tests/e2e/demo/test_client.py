"""How the demo page reconnects and resumes, and the parts of its client.js that the page does not use."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import time

import pytest

from tests.e2e.browser import Browser, Page
from tests.e2e.demo.kit import (
    CONNECTED,
    carries,
    has_text,
    message_texts,
    open_page,
    publish,
    push,
    restartable,
)
from tests.e2e.gateway import GatewayProcess, gateway_process, token


@pytest.fixture(scope="module")
def gateway(home: Path) -> Iterator[GatewayProcess]:
    """A gateway that pings after half a second of silence; the page sends something every two seconds."""
    with gateway_process(home, HEARTBEAT__INTERVAL="500ms", HEARTBEAT__GRACE="5s") as running:
        yield running


def test_the_page_answers_pings_of_the_server(page: Page) -> None:
    page.wait_event("Network.webSocketFrameReceived", carries("ping"))
    page.wait_event("Network.webSocketFrameSent", carries("pong"))


def test_messages_missed_while_offline_are_recovered(
    page: Page, gateway: GatewayProcess, channel: str
) -> None:
    publish(gateway, channel, "before")
    page.wait(has_text("before"))
    page.click("#toggle")
    page.wait("document.querySelector('#state').textContent === 'Offline'")
    publish(gateway, channel, *(f"missed {number}" for number in range(60)))
    page.type("#text", "too early")
    page.wait(has_text("Not sent: not connected", "#sent"))
    assert page.evaluate("document.querySelector('#text').value") == "too early"
    page.click("#toggle")
    page.wait(has_text("Recovered 60 messages, nothing lost", ".note"))
    assert message_texts(page) == ["before", *(f"missed {number}" for number in range(60))]
    page.wait("document.querySelector('#total').textContent === '61'")
    page.click("#toggle")
    page.wait("document.querySelector('#state').textContent === 'Offline'")
    publish(gateway, channel, "missed again")
    page.click("#toggle")
    page.wait(has_text("Recovered 1 message, nothing lost", ".note"))
    assert message_texts(page)[-2:] == ["missed 59", "missed again"]


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGTERM, "the server shuts down"), (signal.SIGKILL, "without a close frame")]
)
def test_the_page_reconnects_to_a_restarted_gateway(
    browser: Browser, tmp_path: Path, channel: str, number: signal.Signals, end: str
) -> None:
    with ExitStack() as first, browser.page() as page:
        gateway = first.enter_context(restartable(tmp_path))
        open_page(page, gateway, channel)
        publish(gateway, channel, "before")
        page.wait(has_text("before"))
        gateway.send_signal(number)
        page.wait(has_text(f"Connection ended ({end})", ".note"))
        first.close()
        page.wait("document.querySelector('#state').textContent.startsWith('Retry in ')")
        with restartable(tmp_path, gateway) as second:
            page.wait(CONNECTED)
            page.wait("document.querySelector('.note.gap')")
            publish(second, channel, "after")
            page.wait(has_text("after"))
            assert message_texts(page) == ["before", "after"]
            assert page.problems() == []


# ---------------------------------------------------------------- client.js beyond the page


def test_reconnect_delays_are_random_up_to_a_bound_that_doubles(
    browser: Browser, gateway: GatewayProcess
) -> None:
    with browser.page() as page:
        page.open(f"http://127.0.0.1:{gateway.internal}/demo/where")
        delays = page.evaluate(
            """(async () => {
                const {Client} = await import("/demo/client.js");
                const client = new Client("ws://127.0.0.1:1/v1/ws");
                const delays = [];
                return new Promise((done) => {
                    client.addEventListener("state", ({detail}) => {
                        if (detail.state === "waiting") delays.push(detail.delay);
                        if (delays.length === 3) { client.close(); done(delays); }
                    });
                    client.open();
                });
            })()"""
        )
        assert all(0 <= delay <= bound for delay, bound in zip(delays, (500, 1000, 2000), strict=True)), (
            delays
        )


def test_no_event_is_dispatched_for_a_channel_that_was_unsubscribed_at_once(
    browser: Browser, gateway: GatewayProcess, channel: str
) -> None:
    left, kept = f"{channel}-left", f"{channel}-kept"
    publish(gateway, left, "not for us")
    publish(gateway, kept, "for us")
    with browser.page() as page:
        page.open(f"http://127.0.0.1:{gateway.internal}/demo/where")
        events = page.evaluate(
            f"""(async () => {{
                const {{Client}} = await import("/demo/client.js");
                const client = new Client("ws://127.0.0.1:{gateway.public}/v1/ws");
                const [events, connected] = [[], new Promise((done) => {{
                    client.addEventListener("state", ({{detail}}) => detail.state === "connected" && done());
                }})];
                client.open();
                await connected;
                client.addEventListener("subscribed", ({{detail}}) => events.push(detail.channel));
                return new Promise((done) => {{
                    client.addEventListener("message", ({{detail}}) => {{
                        events.push(detail.data.text);
                        if (detail.channel === "{kept}") {{ client.close(); done(events); }}
                    }});
                    client.subscribe("{left}", {{rewind: 1}});
                    client.unsubscribe("{left}");
                    client.subscribe("{kept}", {{rewind: 1}});
                }});
            }})()"""
        )
        assert events == [kept, "for us"]


def test_with_a_token_the_client_refreshes_resumes_its_personal_channel_and_stops_at_code_4005(
    browser: Browser, gateway: GatewayProcess
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
        page.wait(has_text("@ann false"))
        push(gateway, "notify", {"users": ["ann"], "data": "one"})
        page.wait(has_text("one false"))
        page.wait_event("Network.webSocketFrameReceived", carries("refreshed"))
        page.evaluate("client.close()")
        push(gateway, "notify", {"users": ["ann"], "data": "two"})
        page.evaluate("client.open()")
        page.wait(has_text("two true"))
        push(gateway, "users/ann/disconnect", {})
        page.wait(has_text("closed 4005"))
        assert message_texts(page) == [
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
