"""The demo page of dev mode in a real Chromium: its files, its content, its layout."""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.console import demo
from tests.e2e.browser import Browser, Page
from tests.e2e.demo.kit import (
    CONNECTED,
    another_client,
    has_text,
    message_texts,
    names,
    open_page,
    publish,
    push,
    until,
)
from tests.e2e.gateway import TIMEOUT_SECONDS, GatewayProcess, gateway_process

ARTIFACTS = Path(__file__).parents[3] / "artifacts"
FILES = sorted(path.name for path in Path(demo.__file__).parent.iterdir() if path.suffix in demo.TYPES)


@pytest.fixture(scope="module")
def gateway(home: Path) -> Iterator[GatewayProcess]:
    with gateway_process(home) as running:
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
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; connect-src ws: http: 'self'")


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


# ---------------------------------------------------------------- content


def test_the_page_subscribes_to_the_default_channel_and_requests_nothing_from_other_hosts(
    gateway: GatewayProcess, browser: Browser
) -> None:
    with browser.page() as page:
        page.open(f"http://127.0.0.1:{gateway.internal}/")
        connection = page.wait(CONNECTED)
        page.wait("Number(document.querySelector('#rtt').textContent) > 0")
        assert page.text("#state") == "Connected"
        assert page.evaluate("document.querySelector('#channel').value") == "demo"
        page.wait(has_text(f"{connection[:6]} (you)", "#members li"))
        places = {urlsplit(url)[:2] for url in page.requests()}
        assert places == {("http", f"127.0.0.1:{gateway.internal}"), ("ws", f"127.0.0.1:{gateway.public}")}
        assert page.problems() == []


def test_a_message_published_over_http_appears(page: Page, gateway: GatewayProcess, channel: str) -> None:
    sent = push(gateway, "publish", {"channel": channel, "data": {"price": 4}, "tags": {"source": "shop"}})
    page.wait(has_text(sent["message"], ".id"))
    assert page.text(".data") == '{"price":4}source: shop'
    assert page.text(".from") == "push API"
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", page.text(".message time"))


def test_a_typed_message_is_delivered_to_another_client_and_to_the_page(
    page: Page, gateway: GatewayProcess, channel: str
) -> None:
    connection = page.text("#connection")
    with another_client(gateway, channel) as other:
        page.type("#text", "good morning")
        message = until(other, type="message")
        assert message["data"] == {"text": "good morning"}
        assert message["from"]["connection"] == connection
        page.wait(has_text(message["message"], ".id"))
        assert message_texts(page) == ["good morning"]
        assert page.text(".from") == f"{connection[:6]} (you)"
        page.wait("document.querySelector('#text').value === ''")


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


def test_rate_and_peak_are_of_whole_seconds(browser: Browser, gateway: GatewayProcess) -> None:
    with browser.page() as page:
        page.open(f"http://127.0.0.1:{gateway.internal}/demo/where")
        shown = page.evaluate(
            """(async () => {
                const {Rate} = await import("/demo/rate.js");
                let [now, draw] = [10_000, null];
                performance.now = () => now;
                window.setInterval = (callback) => { draw = callback; };
                const view = {rate: {}, total: {}, peak: {}, path: {setAttribute() {}}};
                const rate = new Rate(view);
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


# ---------------------------------------------------------------- layout

LINES = (
    "Order 4711 was paid",
    "Anyone here?",
    "ACME is now at 41.87",
    "Two more of the soup, please",
    "The build on main is green",
    "Goal! 2:1 in the 83rd minute",
    "Your taxi is three minutes away",
)


@pytest.fixture(scope="module")
def busy_page(gateway: GatewayProcess, browser: Browser) -> Iterator[Page]:
    """The page with members, a few dozen messages and a recovery."""
    with browser.page() as page, ExitStack() as clients:
        open_page(page, gateway, "demo")
        others = [clients.enter_context(another_client(gateway, "demo")) for _ in range(4)]
        for number in range(36):
            other, text = others[number % 4], {"channel": "demo", "data": {"text": LINES[number % 7]}}
            if number % 3:
                other.send(json.dumps({"type": "publish", "id": 3, **text}))
                until(other, type="published")
            elif number % 2:
                push(gateway, "publish", text)
            else:
                order = {"order": 4711 + number, "status": "paid"}
                push(gateway, "publish", {"channel": "demo", "data": order, "tags": {"source": "shop"}})
        page.wait("document.querySelectorAll('.message').length === 36")
        page.click("#toggle")
        page.wait("document.querySelector('#state').textContent === 'Offline'")
        publish(gateway, "demo", *LINES[:3])
        page.click("#toggle")
        page.wait("document.querySelector('.recovered')")
        clients.enter_context(another_client(gateway, "demo"))
        page.type("#text", "Nothing was lost")
        page.wait("Number(document.querySelector('#peak').textContent) > 0")
        page.wait("document.querySelector('#present').textContent === '6'")
        yield page


@pytest.mark.parametrize(
    ("name", "width", "height", "scheme"),
    [("demo", 1280, 800, "light"), ("demo-dark", 1280, 800, "dark"), ("demo-phone", 390, 844, "light")],
)
def test_no_element_is_wider_than_the_window(
    busy_page: Page, name: str, width: int, height: int, scheme: str
) -> None:
    busy_page.look(width, height, scheme)
    busy_page.evaluate("Promise.all(document.getAnimations().map((animation) => animation.finished))")
    busy_page.screenshot(ARTIFACTS / f"{name}.png")
    beyond = """[...document.querySelectorAll("body *")].filter((element) => {
        const {left, right, width} = element.getBoundingClientRect();
        return width > 1 && (left < 0 || right > innerWidth);
    }).map((element) => element.outerHTML)"""
    assert busy_page.evaluate(beyond) == []
    assert busy_page.evaluate("document.documentElement.scrollWidth") == width


def test_every_control_has_an_accessible_name(busy_page: Page) -> None:
    tree = busy_page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "combobox", "link", "log", "region", "image", "img"}
    controls = [node for node in tree if not node["ignored"] and node["role"]["value"] in roles]
    assert len(controls) > 10
    assert [node for node in controls if not node.get("name", {}).get("value")] == []
