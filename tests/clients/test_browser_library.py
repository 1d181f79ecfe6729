"""The TypeScript client in Chromium, without a page of its own: reconnects, tokens and positions."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.npm import PACKAGE, run
from tests.e2e.browser import Browser, Page
from tests.e2e.demo.kit import carries, has_text, message_texts, push
from tests.e2e.gateway import GatewayProcess, token

# Writes what a test waits for into the page.
HELPERS = """
    document.body.textContent = "";
    window.note = (...words) => document.body.append(Object.assign(document.createElement("p"), {
        className: "data", textContent: words.join(" "),
    }));
    undefined;
"""


@pytest.fixture(scope="module")
def library(home: Path) -> str:
    """The library as a script that defines `fanway`."""
    target = home / "library.js"
    esbuild = str(PACKAGE / "node_modules" / ".bin" / "esbuild")
    run(esbuild, "src/index.ts", "--bundle", "--format=iife", "--global-name=fanway", f"--outfile={target}")
    return f"{target.read_text()}; globalThis.fanway = fanway; {HELPERS}"


@pytest.fixture
def tab(browser: Browser, library: str) -> Iterator[Page]:
    with browser.page() as page:
        page.evaluate(library)
        yield page
        assert page.problems() == []


def url(gateway: GatewayProcess) -> str:
    return json.dumps(f"ws://127.0.0.1:{gateway.public}/v1/ws")


def publish(gateway: GatewayProcess, channel: str, data: Any) -> None:
    push(gateway, "publish", {"channel": channel, "data": data})


def test_reconnect_delays_are_random_up_to_a_bound_that_doubles(tab: Page) -> None:
    delays = tab.evaluate(
        """new Promise((done) => {
            const client = new fanway.Fanway("ws://127.0.0.1:1/v1/ws");
            const delays = [];
            client.on("state", ({state, delay}) => {
                if (state === "waiting") delays.push(delay);
                if (delays.length === 3) { client.close(); done(delays); }
            });
            client.connect();
        })"""
    )
    assert all(0 <= delay <= bound for delay, bound in zip(delays, (500, 1000, 2000), strict=True)), delays
    assert len(set(delays)) == 3


def test_a_channel_that_was_released_at_once_has_no_events(tab: Page, gateway: GatewayProcess) -> None:
    left, kept = "open:left-at-once", "open:kept"
    publish(gateway, left, "not for us")
    publish(gateway, kept, "for us")
    events = tab.evaluate(
        f"""(async () => {{
            const client = new fanway.Fanway({url(gateway)});
            await new Promise((done) => {{
                client.on("state", ({{state}}) => state === "connected" && done());
                client.connect();
            }});
            const events = [];
            const released = client.channel("{left}", {{rewind: 1}});
            released.on("message", ({{data}}) => events.push(data));
            released.close();
            await new Promise((done) => client.channel("{kept}", {{rewind: 1}}).on("message", ({{data}}) => {{
                events.push(data);
                done();
            }}));
            await client.close();
            return events;
        }})()"""
    )
    assert events == ["for us"]


def test_a_client_with_a_token_refreshes_resumes_its_personal_channel_and_stops_at_code_4005(
    tab: Page, gateway: GatewayProcess
) -> None:
    now = time.time()
    tokens = [token("eve", now=now, ttl=4), token("eve", now=now), token("eve", now=now)]
    tab.evaluate(
        f"""(() => {{
            const tokens = {json.dumps(tokens)};
            window.client = new fanway.Fanway({url(gateway)}, {{getToken: async () => tokens.shift()}});
            client.on("state", ({{state, code}}) => note(state, code ?? ""));
            const own = client.channel("@eve");
            own.on("message", ({{data}}) => note(data));
            own.on("state", ({{state}}) => note("@eve", state));
            own.on("gap", () => note("gap"));
            client.connect();
        }})()"""
    )
    tab.wait(has_text("@eve live"))
    push(gateway, "notify", {"users": ["eve"], "data": "one"})
    tab.wait(has_text("one"))
    tab.wait_event("Network.webSocketFrameReceived", carries("refreshed"))
    tab.evaluate("client.close(); undefined")
    push(gateway, "notify", {"users": ["eve"], "data": "two"})
    tab.evaluate("client.connect(); undefined")
    tab.wait(has_text("two"))
    push(gateway, "users/eve/disconnect", {})
    tab.wait(has_text("stopped 4005"))
    texts = message_texts(tab)
    assert [text for text in texts if not text.startswith("@eve")] == [
        "connecting ",
        "connected ",
        "one",
        "stopped 1000",
        "connecting ",
        "connected ",
        "two",
        "stopped 4005",
    ]


def test_a_channel_token_that_expires_is_fetched_anew_and_nothing_is_missed(
    tab: Page, gateway: GatewayProcess
) -> None:
    name, now = "doc:renewed", time.time()
    passing, lasting = token("ann", now=now, ttl=4, channel=name), token("ann", now=now, channel=name)
    tab.evaluate(
        f"""(() => {{
            const held = new Promise((release) => window.release = release);
            const tokens = [{json.dumps(passing)}, held.then(() => {{ throw new Error("no backend"); }}),
                {json.dumps(lasting)}];
            const client = new fanway.Fanway({url(gateway)}, {{
                getToken: () => {json.dumps(token("ann", now=now))},
                getChannelTokens: async ([channel]) => {{
                    note("token for", channel);
                    return {{[channel]: await tokens.shift()}};
                }},
            }});
            client.on("error", (error) => note("error", error.message));
            const channel = client.channel("{name}", {{token: true}});
            channel.on("state", ({{state}}) => note(state));
            channel.on("gap", () => note("gap"));
            channel.on("message", ({{data}}) => note(data));
        }})()"""
    )
    tab.wait(has_text("live"))
    publish(gateway, name, "one")
    tab.wait(has_text("one"))
    tab.wait(
        "[...document.querySelectorAll('.data')]"
        f".filter((row) => row.textContent === 'token for {name}').length === 2"
    )
    publish(gateway, name, "two")
    tab.evaluate("release()")
    tab.wait(has_text("two"))
    publish(gateway, name, "three")
    tab.wait(has_text("three"))
    assert message_texts(tab) == [
        f"token for {name}",
        "live",
        "one",
        "pending",
        f"token for {name}",
        "error no backend",
        f"token for {name}",
        "live",
        "two",
        "three",
    ]


def test_a_channel_without_another_token_is_gone_and_its_position_is_where_another_client_goes_on(
    tab: Page, gateway: GatewayProcess
) -> None:
    name, now = "doc:ends", time.time()
    passing, lasting = token("ann", now=now, ttl=4, channel=name), token("ann", now=now, channel=name)
    publish(gateway, name, "before")
    tab.evaluate(
        f"""(async () => {{
            const kept = {{}};
            const positions = {{load: () => ({{...kept}}), save: (given) => Object.assign(kept, given)}};
            const open = (tokens) => new fanway.Fanway({url(gateway)}, {{
                getToken: () => {json.dumps(token("ann", now=now))},
                getChannelTokens: ([channel]) => ({{[channel]: tokens.shift()}}),
                positions,
            }});
            window.goOn = () => open([{json.dumps(lasting)}]).channel("{name}", {{token: true}})
                .on("message", ({{data}}) => note(data));
            const channel = open([{json.dumps(passing)}]).channel("{name}", {{token: true, rewind: 1}});
            channel.on("message", ({{data}}) => note(data));
            channel.on("state", ({{state, error}}) => state === "gone" && note(state, error.code));
        }})()"""
    )
    tab.wait(has_text("gone unauthorized"))
    publish(gateway, name, "after")
    tab.evaluate("goOn(); undefined")
    tab.wait(has_text("after"))
    assert message_texts(tab) == ["before", "gone unauthorized", "after"]
