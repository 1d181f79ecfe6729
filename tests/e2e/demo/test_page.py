"""The demo page of dev mode in a real Chromium: its files, and what it shows and sends."""

import json
import re
import shlex
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.console import demo
from tests.clients.npm import PACKAGE, run
from tests.e2e.browser import Browser, Page
from tests.e2e.demo.kit import (
    CONNECTED,
    another_client,
    has_text,
    message_texts,
    names,
    numbers,
    open_page,
    publish,
    push,
    until,
)
from tests.e2e.gateway import TIMEOUT_SECONDS, GatewayProcess, gateway_process

FILES = sorted(path.name for path in Path(demo.__file__).parent.iterdir() if path.suffix in demo.TYPES)


@pytest.fixture(scope="module")
def gateway(home: Path) -> Iterator[GatewayProcess]:
    with gateway_process(home, AUTH__SECRET="") as running:
        yield running


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("path", ["/", "/demo/where", *(f"/demo/{name}" for name in FILES)])
def test_every_file_has_its_type_is_not_cached_and_cannot_load_from_other_hosts(
    gateway: GatewayProcess, path: str
) -> None:
    answer = httpx.get(f"http://127.0.0.1:{gateway.internal}{path}", trust_env=False)
    types = demo.TYPES | {"": "text/html" if path == "/" else "application/json"}
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == types[Path(path).suffix]
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        **{f"{kind}-src": "'self'" for kind in ("script", "style", "img", "worker")},
        "connect-src": "'self' ws: wss:",
        **dict.fromkeys(("base-uri", "form-action", "frame-ancestors"), "'none'"),
    }


@pytest.mark.parametrize(
    "path", ["/demo/", "/demo/__init__.py", "/demo/../app.py", "/demo/%2e%2e/app.py", "/demo/..%2fapp.py"]
)
def test_no_other_file_is_served(gateway: GatewayProcess, path: str) -> None:
    connection = HTTPConnection("127.0.0.1", gateway.internal, timeout=TIMEOUT_SECONDS)
    try:
        # http.client sends the path unchanged: other clients would normalise it.
        connection.request("GET", path)
        assert connection.getresponse().status == 404
    finally:
        connection.close()


def test_the_committed_page_is_what_its_source_builds(tmp_path: Path) -> None:
    run("node", "demo/build.mjs", str(tmp_path), cwd=PACKAGE)
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {name: (Path(demo.__file__).parent / name).read_bytes() for name in FILES}
    assert built.keys() == committed.keys()
    assert [name for name in FILES if built[name] != committed[name]] == [], "run `make demo` and commit"
    assert len(committed["demo.js"]) < 48 * 1024


# ---------------------------------------------------------------- names


def test_a_user_of_the_page_has_the_name_that_its_token_says(
    gateway: GatewayProcess, browser: Browser, channel: str
) -> None:
    with browser.page() as page:
        open_page(page, gateway, channel, name="M%C3%A9lanie")
        page.wait(has_text("Mélanie (you)", "#members li"))
        assert page.evaluate("location.search") == ""
        before = len(page.events)
        page.type("#name", "Bob")
        page.wait_event("Page.loadEventFired", after=before)
        page.wait(has_text("Bob (you)", "#members li"))
        page.type("#text", "hello")
        page.wait(has_text("Bob (you)", ".message .from"))
        assert page.problems() == []


@pytest.mark.parametrize("user", ["", "a" * 129, "a%00b"])
def test_no_token_is_signed_for_a_name_that_no_user_can_have(gateway: GatewayProcess, user: str) -> None:
    url = f"http://127.0.0.1:{gateway.internal}/demo/token?user={user}"
    answer = httpx.post(url, trust_env=False)
    assert answer.status_code == 422
    assert "1 to 128 characters" in answer.json()["error"]["message"]


def test_a_configured_secret_signs_nothing_for_the_page_which_is_anonymous_then(
    browser: Browser, channel: str, tmp_path: Path
) -> None:
    with gateway_process(tmp_path) as gateway, browser.page() as page:
        url = f"http://127.0.0.1:{gateway.internal}/demo/token?user=Ada"
        assert httpx.post(url, trust_env=False).json() == {"token": None}
        open_page(page, gateway, channel)
        page.wait(has_text(f"{page.text('#connection')[:6]} (you)", "#members li"))
        assert page.evaluate("document.querySelector('#naming').hidden")
        page.type("#text", "without a name")
        page.wait(has_text("without a name"))
        assert page.problems() == []


# ---------------------------------------------------------------- two windows


def test_two_windows_see_each_other(page: Page, browser: Browser) -> None:
    page.wait("document.querySelector('#another').search.length > 6")
    with browser.page() as second:
        second.open(page.evaluate("document.querySelector('#another').href"))
        second.wait("document.querySelector('#present').textContent === '2'")
        other = second.evaluate("document.querySelector('#name').value")
        assert other != "Ada"
        second.wait(has_text("Ada", "#members li"))
        second.type("#text", "can you read this?")
        page.bring_to_front()
        page.wait(has_text(other, "#members li"))
        page.wait(has_text(f"{other} joined", "#events li"))
        page.wait(has_text("can you read this?"))
        page.type("#text", "yes, I can")
        for tab in (page, second):
            tab.bring_to_front()
            tab.wait(has_text("yes, I can"))
            assert message_texts(tab) == ["can you read this?", "yes, I can"]
            assert numbers(tab) == [1, 2]
        senders = "[...document.querySelectorAll('.message .from')].map((from) => from.textContent)"
        assert page.evaluate(senders) == [other, "Ada (you)"]
        assert second.evaluate(senders) == [f"{other} (you)", "Ada"]
        assert second.problems() == []
    page.bring_to_front()
    page.wait(has_text(f"{other} left", "#events li"))


# ---------------------------------------------------------------- messages


def test_the_page_subscribes_to_the_default_channel_and_requests_nothing_from_other_hosts(
    gateway: GatewayProcess, browser: Browser
) -> None:
    with browser.page() as page:
        page.open(f"http://127.0.0.1:{gateway.internal}/")
        page.wait(CONNECTED)
        assert page.text("#state") == "Connected"
        assert page.evaluate("document.querySelector('#channel').value") == "demo"
        name = page.evaluate("document.querySelector('#name').value")
        page.wait(has_text(f"{name} (you)", "#members li"))
        places = {urlsplit(url)[:2] for url in page.requests()}
        assert places == {("http", f"127.0.0.1:{gateway.internal}"), ("ws", f"127.0.0.1:{gateway.public}")}
        assert page.problems() == []


def test_a_message_published_over_http_appears(page: Page, gateway: GatewayProcess, channel: str) -> None:
    sent = push(gateway, "publish", {"channel": channel, "data": {"price": 4}, "tags": {"source": "shop"}})
    page.wait(has_text("#1", ".number"))
    assert page.evaluate("document.querySelector('.number').title") == f"message id {sent['message']}"
    assert page.text(".data") == '{"price":4}source: shop'
    assert page.text(".from") == "backend"
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", page.text(".message time"))


def test_a_typed_message_is_delivered_to_another_client_and_to_the_page(
    page: Page, gateway: GatewayProcess, channel: str
) -> None:
    connection = page.text("#connection")
    with another_client(gateway, channel) as other:
        page.type("#text", "good morning")
        message = until(other, type="message")
        assert message["data"] == {"text": "good morning"}
        assert message["from"] == {"connection": connection, "user": "Ada"}
        page.wait(has_text("good morning"))
        assert message_texts(page) == ["good morning"]
        assert page.text(".from") == "Ada (you)"
        assert page.evaluate("document.querySelector('#text').value") == ""
        page.wait("document.querySelector('#echoes').childElementCount === 0")
        page.wait("Number(document.querySelector('#median').textContent) > 0")


def test_a_typed_message_is_shown_before_the_gateway_has_it(page: Page) -> None:
    page.click("#toggle")
    page.wait(has_text("Offline", "#state"))
    page.type("#text", "soon")
    page.wait(has_text("soon", ".echo .text"))
    assert page.text(".echo .state") == "waits"
    page.click("#toggle")
    page.wait(has_text("soon"))
    page.wait("document.querySelector('#echoes').childElementCount === 0")
    assert message_texts(page) == ["soon"]


def test_joins_and_leaves_are_shown(page: Page, gateway: GatewayProcess, channel: str) -> None:
    with another_client(gateway, channel) as other:
        page.wait("document.querySelector('#present').textContent === '2'")
        other.send(json.dumps({"type": "publish", "id": 3, "channel": channel, "data": "hi"}))
        name = until(other, type="message")["from"]["connection"][:6]
        page.wait(has_text(name, "#members li"))
        page.wait(has_text(f"{name} joined", "#events li"))
        page.wait(has_text(name, ".from"))
    page.wait("document.querySelector('#present').textContent === '1'")
    page.wait(has_text(f"{name} left", "#events li"))


def test_markup_in_a_message_is_shown_as_text(page: Page, gateway: GatewayProcess, channel: str) -> None:
    hostile = "<img src=x onerror='document.title=`owned`'><script>document.title='owned'</script>"
    data = [{"text": hostile}, hostile, {hostile: hostile}]
    for each in data:
        push(gateway, "publish", {"channel": channel, "data": each, "tags": {hostile: hostile}})
    page.wait(f"document.querySelectorAll('.message').length === {len(data)}")
    assert message_texts(page)[1] == f"{hostile}{hostile}: {hostile}"
    assert page.evaluate("document.querySelectorAll('#messages img, #messages script').length") == 0
    assert page.evaluate("document.title") == f"{channel} · Fanway"


def test_the_curl_command_publishes_the_typed_text(page: Page) -> None:
    page.evaluate("document.querySelector('#text').focus()")
    page.call("Input.insertText", text='it\'s "quoted" $(here) \\')
    page.wait(r"document.querySelector('#curl').textContent.includes('here')")
    program, url, *options = shlex.split(page.text("#curl").replace("\\\n", " "))
    given = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ") for option, value in given if option == "-H")
    (body,) = (value for option, value in given if option == "-d")
    assert (program, {option for option, _ in given}) == ("curl", {"-H", "-d"})
    assert httpx.post(url, content=body, headers=headers, trust_env=False).status_code == 200
    page.wait(has_text('it\'s "quoted" $(here) \\'))


def test_a_button_publishes_the_message_of_the_curl_command(page: Page) -> None:
    page.click("#run")
    page.wait(has_text("hello"))
    page.wait("document.querySelector('#pushed').textContent.startsWith('Accepted in ')")


def test_a_burst_is_shown_completely_in_order_and_counted(page: Page) -> None:
    page.click("#burst")
    page.wait("document.querySelector('#total').textContent === '100'")
    page.wait("Number(document.querySelector('#peak').textContent) > 0")
    page.wait(has_text("burst 100 of 100"))
    assert message_texts(page) == [f"burst {number} of 100" for number in range(1, 101)]
    page.wait("document.querySelector('#pushed').textContent.startsWith('100 accepted in ')")


def test_rate_and_peak_are_of_whole_seconds(browser: Browser, tmp_path: Path) -> None:
    esbuild = str(PACKAGE / "node_modules" / ".bin" / "esbuild")
    script = tmp_path / "rate.js"
    run(
        esbuild,
        "demo/views/rate.ts",
        "--bundle",
        "--format=iife",
        "--global-name=rates",
        f"--outfile={script}",
    )
    with browser.page() as page:
        page.evaluate(script.read_text() + "; globalThis.rates = rates; undefined")
        shown = page.evaluate(
            """(() => {
                let [now, draw] = [10_000, null];
                performance.now = () => now;
                window.setInterval = (callback) => { draw = callback; };
                const view = {rate: {}, total: {}, peak: {}, path: {setAttribute() {}}};
                const rate = new rates.Rate(view);
                const shown = [];
                const count = (number) => { for (let i = 0; i < number; i++) rate.count(); };
                for (const [ms, number] of [[100, 7], [900, 3], [1000, 2], [2500, 0], [60_500, 0]]) {
                    now = 10_000 + ms;
                    count(number);
                    draw();
                    shown.push([view.rate, view.peak, view.total].map(({textContent}) => textContent));
                }
                return shown;
            })()"""
        )
    assert shown == [
        ["0", "0", "7"],
        ["0", "0", "10"],
        ["10", "10", "12"],
        ["2", "10", "12"],
        ["0", "2", "12"],
    ]


def test_the_load_is_published_counted_and_measured_until_it_is_stopped(page: Page) -> None:
    page.evaluate("document.querySelector('#load-rate').value = '200'")
    page.click("#load")
    page.wait("Number(document.querySelector('#total').textContent) > 100")
    page.wait("Number(document.querySelector('#median').textContent) > 0")
    page.wait("Number(document.querySelector('#p99').textContent) > 0")
    assert page.evaluate("document.querySelector('#load').ariaPressed") == "true"
    assert re.search(r"median [\d.]+ ms", page.evaluate("document.querySelector('#plot').ariaLabel"))
    page.click("#load")
    assert page.evaluate("document.querySelector('#load').ariaPressed") == "false"
    page.wait("document.querySelector('#rate').textContent === '0'")
    shown = numbers(page)
    assert shown == list(range(shown[0], shown[-1] + 1))
    assert page.text("#total") == str(shown[-1])


def test_screen_readers_hear_of_messages_in_one_sentence(
    page: Page, gateway: GatewayProcess, channel: str
) -> None:
    publish(gateway, channel, *(f"number {number}" for number in range(20)))
    page.wait(has_text("20 new messages, the last from backend: number 19", "#heard"))
    assert page.evaluate("document.querySelector('#scroller').ariaLive") == "off"


def test_the_page_keeps_only_the_last_500_messages(page: Page, gateway: GatewayProcess, channel: str) -> None:
    publish(gateway, channel, *(f"early {number}" for number in range(600)))
    publish(gateway, channel, "last")
    page.wait(has_text("last"))
    assert message_texts(page) == [*(f"early {number}" for number in range(101, 600)), "last"]


def test_new_messages_do_not_scroll_when_the_user_has_scrolled_back(
    page: Page, gateway: GatewayProcess, channel: str
) -> None:
    publish(gateway, channel, *(f"early {number}" for number in range(100)))
    page.wait(has_text("early 99"))
    page.evaluate("document.querySelector('#scroller').scrollTop = 0")
    page.wait("!document.querySelector('#newest').hidden")
    publish(gateway, channel, "late")
    page.wait(has_text("late"))
    assert page.evaluate("document.querySelector('#scroller').scrollTop") == 0
    page.click("#newest")
    page.wait("document.querySelector('#newest').hidden")
    assert page.evaluate("document.querySelector('#scroller').scrollTop") > 0


def test_another_channel_shows_only_its_own_messages(
    page: Page, gateway: GatewayProcess, channel: str
) -> None:
    publish(gateway, channel, "of the first")
    page.wait(has_text("of the first"))
    second = next(names)
    publish(gateway, second, "earlier", "of the second")
    page.type("#channel", second)
    page.wait(has_text("of the second"))
    publish(gateway, channel, "not for us")
    publish(gateway, second, "for us")
    page.wait(has_text("for us"))
    assert message_texts(page) == ["earlier", "of the second", "for us"]
    page.wait("document.querySelector('#present').textContent === '1'")
