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


def test_what_is_typed_while_offline_is_sent_later_and_outlives_a_reload(page: Page) -> None:
    page.click("#toggle")
    page.wait(has_text("Offline", "#state"))
    page.type("#text", "first")
    page.wait(has_text("1 message is sent when the connection is back", "#sent"))
    page.type("#text", "second")
    page.wait(has_text("2 messages are sent when the connection is back", "#sent"))
    assert page.evaluate("document.querySelector('#text').value") == ""
    page.click("#toggle")
    page.wait(has_text("second"))
    page.wait("document.querySelector('#sent').textContent === ''")
    assert message_texts(page) == ["first", "second"]
    page.click("#toggle")
    page.type("#text", "third")
    page.call("Page.reload")
    page.wait(has_text("third"))
    assert message_texts(page) == ["first", "second", "third"]


def test_errors_are_removed_when_the_page_is_connected_again(
    browser: Browser, tmp_path: Path, channel: str
) -> None:
    with ExitStack() as first, browser.page() as page:
        gateway = first.enter_context(restartable(tmp_path))
        open_page(page, gateway, channel)
        gateway.send_signal(signal.SIGKILL)
        page.wait(has_text("No connection", "#state"))
        page.click("#run")
        page.wait("document.querySelector('#pushed.failed')?.textContent.startsWith('No answer: ')")
        first.close()
        with restartable(tmp_path, gateway):
            page.wait(CONNECTED)
            page.wait("document.querySelector('#pushed').textContent === ''")


def test_the_page_retries_at_once_on_demand(browser: Browser, tmp_path: Path, channel: str) -> None:
    with ExitStack() as first, browser.page() as page:
        gateway = first.enter_context(restartable(tmp_path))
        open_page(page, gateway, channel)
        # A long delay, whatever the backoff: the test would never see the next attempt without a click.
        page.evaluate("Math.random = () => 1e6")
        gateway.send_signal(signal.SIGKILL)
        page.wait("!document.querySelector('#retry').hidden")
        shown = page.text("#countdown")
        page.wait(f"document.querySelector('#countdown').textContent !== '{shown}'")
        first.close()
        with restartable(tmp_path, gateway):
            page.click("#retry")
            page.wait(CONNECTED)
            assert page.evaluate("document.querySelector('#retry').hidden")
            assert page.text("#countdown") == ""


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
        page.wait(has_text("No connection", "#state"))
        page.wait("document.querySelector('#countdown').textContent.startsWith('retry in ')")
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


CHANNEL_TOKENS = """
[channels.private]
subscribe = "token"
history = 100
"""


@pytest.fixture(scope="module")
def private_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with a namespace that wants channel tokens."""
    with gateway_process(tmp_path_factory.mktemp("private"), CHANNEL_TOKENS) as running:
        yield running


def test_a_channel_token_that_expires_is_fetched_anew_and_nothing_is_missed(
    browser: Browser, private_gateway: GatewayProcess, channel: str
) -> None:
    name, now = f"private:{channel}", time()
    passing, lasting = token("ann", now=now, ttl=4, channel=name), token("ann", now=now, channel=name)
    with browser.page() as page:
        page.open(f"http://127.0.0.1:{private_gateway.internal}/demo/where")
        page.evaluate(
            f"""(async () => {{
                const {{Client}} = await import("/demo/client.js");
                const log = document.body;
                log.textContent = "";
                const note = (...words) => log.append(Object.assign(document.createElement("p"), {{
                    className: "data", textContent: words.join(" "),
                }}));
                const url = "ws://127.0.0.1:{private_gateway.public}/v1/ws";
                window.client = new Client(url, {{token: () => {json.dumps(token("ann", now=now))}}});
                const held = new Promise((release) => window.release = release);
                const tokens = [{json.dumps(passing)}, held.then(() => {{ throw new Error("no backend"); }}),
                    {json.dumps(lasting)}];
                const fetchToken = async (channel) => {{
                    note("token for", channel);
                    return tokens.shift();
                }};
                for (const type of ["subscribed", "unsubscribed"]) {{
                    client.addEventListener(type, ({{detail: {{channel, recovered, code}}}}) => {{
                        if (channel === "{name}") note(type, code ?? recovered);
                    }});
                }}
                client.addEventListener("message", ({{detail}}) => note(detail.data.text));
                client.addEventListener("error", ({{detail}}) => note("error", detail.message));
                client.subscribe("{name}", {{token: fetchToken}});
                client.open();
            }})()"""
        )
        page.wait(has_text("subscribed false"))
        publish(private_gateway, name, "one")
        page.wait(has_text("one"))
        asked = (
            f"[...document.querySelectorAll('.data')].filter((row) => row.textContent === 'token for {name}')"
        )
        page.wait(f"{asked}.length === 2")
        publish(private_gateway, name, "two")
        page.evaluate("release()")
        page.wait(has_text("two"))
        publish(private_gateway, name, "three")
        page.wait(has_text("three"))
        assert message_texts(page) == [
            f"token for {name}",
            "subscribed false",
            "one",
            f"token for {name}",
            "error no backend",
            f"token for {name}",
            "subscribed true",
            "two",
            "three",
        ]
        assert page.problems() == []


def test_a_fixed_channel_token_that_expires_ends_the_subscription_with_its_position(
    browser: Browser, private_gateway: GatewayProcess, channel: str
) -> None:
    name, now = f"private:{channel}", time()
    passing, lasting = token("ann", now=now, ttl=4, channel=name), token("ann", now=now, channel=name)
    publish(private_gateway, name, "before")
    with browser.page() as page:
        page.open(f"http://127.0.0.1:{private_gateway.internal}/demo/where")
        replayed = page.evaluate(
            f"""(async () => {{
                const {{Client}} = await import("/demo/client.js");
                const client = new Client("ws://127.0.0.1:{private_gateway.public}/v1/ws",
                    {{token: () => {json.dumps(token("ann", now=now))}}});
                const next = (type) => new Promise((done) => {{
                    client.addEventListener(type, ({{detail}}) => done(detail), {{once: true}});
                }});
                client.subscribe("{name}", {{token: {json.dumps(passing)}, rewind: 1}});
                client.open();
                await next("message");
                const {{code, since}} = await next("unsubscribed");
                await fetch("/v1/publish", {{method: "POST", headers: {{Authorization: "Bearer dev",
                    "Content-Type": "application/json"}}, body: '{{"channel": "{name}", "data": "after"}}'}});
                client.subscribe("{name}", {{token: {json.dumps(lasting)}, since}});
                const {{data}} = await next("message");
                client.close();
                return [code, data];
            }})()"""
        )
        assert replayed == ["token_expired", "after"]
