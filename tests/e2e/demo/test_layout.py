"""The demo page on phones and large windows, in light and dark, with a keyboard and a screen reader."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.clients.npm import PACKAGE
from tests.e2e.browser import Browser, Page
from tests.e2e.demo.kit import another_client, has_text, message_texts, open_page, publish, push, until
from tests.e2e.gateway import GatewayProcess, gateway_process

ARTIFACTS = Path(__file__).parents[3] / "artifacts"
AXE = PACKAGE / "node_modules" / "axe-core" / "axe.min.js"

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
def gateway(home: Path) -> Iterator[GatewayProcess]:
    with gateway_process(home, AUTH__SECRET="") as running:
        yield running


@pytest.fixture(scope="module")
def busy_page(gateway: GatewayProcess, browser: Browser) -> Iterator[Page]:
    """The page with members, a few dozen messages, a cut and a load."""
    with browser.page() as page, ExitStack() as clients:
        open_page(page, gateway, "demo")
        others = [
            clients.enter_context(another_client(gateway, "demo", user=user))
            for user in ("Grace", "Ken", "Radia", "")
        ]
        for number in range(24):
            other, text = others[number % 4], {"channel": "demo", "data": {"text": LINES[number % 7]}}
            if number % 3:
                other.send(json.dumps({"type": "publish", "id": 3, **text}))
                until(other, type="published")
            elif number % 2:
                push(gateway, "publish", text)
            else:
                order = {"order": 4711 + number, "status": "paid"}
                push(gateway, "publish", {"channel": "demo", "data": order, "tags": {"source": "shop"}})
        page.wait("document.querySelectorAll('.message').length === 24")
        page.click("#load")
        page.wait("Number(document.querySelector('#total').textContent) > 60")
        page.click("#load")
        page.click("#cut-3")
        page.wait(has_text("Connection ended (cut by you)", ".note"))
        publish(gateway, "demo", *LINES[:3])
        page.wait("document.querySelector('#verdict.good')")
        page.wait(has_text("Connected", "#state"))
        page.click("#slow")
        page.wait(has_text("Ada, slow", "#members li"))
        page.click("#load")
        page.wait("Number(document.querySelector('#slow-behind').textContent) > 5")
        page.click("#load")
        page.click("#slow")
        page.wait("document.querySelector('#slow-outcome').textContent.startsWith('It has caught up: ')")
        page.type("#text", "Nothing was lost")
        page.wait(has_text("Nothing was lost"))
        page.wait("document.querySelector('#present').textContent === '6'")
        yield page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("name", "width", "height"),
    [("phone", 360, 780), ("tablet", 820, 1180), ("desktop", 1280, 800)],
)
def test_no_element_is_wider_than_the_window_and_axe_finds_nothing(
    busy_page: Page, name: str, width: int, height: int, scheme: str
) -> None:
    busy_page.look(width, height, scheme)
    busy_page.wait(f"document.documentElement.dataset.theme === '{scheme}'")
    busy_page.evaluate("Promise.all(document.getAnimations().map((animation) => animation.finished))")
    busy_page.screenshot(ARTIFACTS / f"demo-{name}-{scheme}.png")
    beyond = """[...document.querySelectorAll("body *")].filter((element) => {
        const {left, right, width} = element.getBoundingClientRect();
        return width > 1 && (left < 0 || right > document.documentElement.clientWidth);
    }).map((element) => element.outerHTML)"""
    assert busy_page.evaluate(beyond) == []
    assert busy_page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert violations(busy_page) == []


def violations(page: Page) -> list[Any]:
    """Return what axe-core finds, by rule, with the elements."""
    page.evaluate(
        f"window.axe || ({json.dumps(AXE.read_text())}, eval)({json.dumps(AXE.read_text())}); undefined"
    )
    found: list[Any] = page.evaluate(
        """axe.run(document).then(({violations}) => violations.map(({id, nodes}) =>
            [id, nodes.map(({html, failureSummary}) => `${html} ${failureSummary}`)]))"""
    )
    return found


def test_axe_finds_nothing_without_messages_and_without_a_connection(page: Page) -> None:
    assert violations(page) == []
    page.click("#toggle")
    page.wait(has_text("Offline", "#state"))
    page.type("#text", "later")
    page.wait(has_text("later", ".echo .text"))
    assert violations(page) == []


def test_every_control_has_an_accessible_name(busy_page: Page) -> None:
    tree = busy_page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "combobox", "link", "log", "region", "image", "img", "switch"}
    controls = [node for node in tree if not node["ignored"] and node["role"]["value"] in roles]
    assert len(controls) > 20
    assert [node for node in controls if not node.get("name", {}).get("value")] == []


def test_the_theme_is_the_systems_until_the_user_chooses_one_which_is_kept(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.look(1280, 800, "dark")
    page.wait("document.documentElement.dataset.theme === 'dark'")
    dark = page.evaluate(ground)
    assert light != dark
    page.click("#theme")
    page.wait("document.documentElement.dataset.theme === 'light'")
    assert page.evaluate(ground) == light
    assert page.evaluate("document.querySelector('#theme').ariaPressed") == "false"
    page.reload()
    page.wait("document.documentElement.dataset.theme === 'light'")
    page.click("#theme")
    page.wait("document.documentElement.dataset.theme === 'dark'")
    page.evaluate("localStorage.clear()")


def test_nothing_moves_where_the_system_asks_for_less_motion(
    page: Page, gateway: GatewayProcess, channel: str
) -> None:
    animations = "document.querySelector('.message').getAnimations().length"
    publish(gateway, channel, "moves")
    page.wait("document.querySelector('.message')")
    assert page.evaluate("getComputedStyle(document.querySelector('.message')).animationName") == "arrive"
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert page.evaluate("getComputedStyle(document.querySelector('.message')).animationName") == "none"
    assert page.evaluate(animations) == 0


def test_a_keyboard_reaches_everything_and_shows_where_it_is(page: Page) -> None:
    press(page, "Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    press(page, "Enter")
    assert page.evaluate("document.activeElement.id") == "text"
    page.call("Input.insertText", text="by keyboard")
    press(page, "Enter")
    page.wait(has_text("by keyboard"))
    visible = """(() => {
        const {outlineStyle, outlineWidth} = getComputedStyle(document.activeElement);
        return outlineStyle === "solid" && parseFloat(outlineWidth) >= 2;
    })()"""
    page.evaluate("document.activeElement.blur(); document.querySelector('#skip').focus()")
    reached = []
    while (
        here := page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
    ) not in reached:
        reached.append(here)
        if here != "skip":
            assert page.evaluate(visible), here
        if here == "slow":
            press(page, " ")
            page.wait("document.querySelector('#slow').ariaChecked === 'true'")
        press(page, "Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
    wanted = """[...document.querySelectorAll("a, button, input, select, pre, #scroller")]
        .filter((element) => element.checkVisibility())
        .map((element) => element.id || element.textContent.trim())"""
    assert set(page.evaluate(wanted)) <= set(reached)
    assert message_texts(page) == ["by keyboard"]
    page.evaluate("document.querySelector('#cut-3').focus()")
    press(page, "Enter")
    page.wait("document.querySelector('#verdict.good')")


def press(page: Page, key: str) -> None:
    """Press and release *key*."""
    codes = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}
    code, text = codes[key]
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text)
