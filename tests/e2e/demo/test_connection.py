"""How the demo page reconnects and resumes, and what it shows of a cut and of a slow client."""

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.browser import Browser, Page
from tests.e2e.demo.kit import (
    CONNECTED,
    carries,
    has_text,
    message_texts,
    numbers,
    open_page,
    publish,
    restartable,
)
from tests.e2e.gateway import GatewayProcess, gateway_process


@pytest.fixture(scope="module")
def gateway(home: Path) -> Iterator[GatewayProcess]:
    """A gateway that pings after half a second of silence."""
    with gateway_process(home, AUTH__SECRET="", HEARTBEAT__INTERVAL="500ms") as running:
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
    page.wait(has_text("60 missed, 60 recovered, in order, 0 lost", ".note"))
    assert message_texts(page) == ["before", *(f"missed {number}" for number in range(60))]
    page.wait("document.querySelector('#total').textContent === '61'")
    page.click("#toggle")
    page.wait("document.querySelector('#state').textContent === 'Offline'")
    publish(gateway, channel, "missed again")
    page.click("#toggle")
    page.wait(has_text("1 missed, 1 recovered, in order, 0 lost", ".note"))
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
    page.reload()
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
        page.wait("document.querySelector('#countdown').textContent.startsWith('next attempt in ')")
        with restartable(tmp_path, gateway) as second:
            page.wait(CONNECTED)
            page.wait(
                has_text("the gateway lost the room's history: nobody knows what was missed", ".note.gap")
            )
            publish(second, channel, "after")
            page.wait(has_text("after"))
            assert message_texts(page) == ["before", "after"]
            # Chromium says so of the requests for a token while there was no gateway.
            assert [problem for problem in page.problems() if "ERR_CONNECTION_REFUSED" not in problem] == []


# ---------------------------------------------------------------- what to try


def test_a_cut_connection_is_resumed_and_every_message_is_there_once_in_order(
    page: Page, gateway: GatewayProcess, channel: str
) -> None:
    publish(gateway, channel, "before")
    page.wait(has_text("before"))
    page.click("#cut-3")
    page.wait_event("Network.webSocketClosed")
    page.wait(has_text("Connection ended (cut by you)", ".note"))
    page.wait("document.querySelector('#countdown').textContent.startsWith('next attempt in ')")
    page.type("#text", "typed without a connection")
    page.wait(has_text("1 message is sent when the connection is back", "#sent"))
    assert page.text(".echo .state") == "waits"
    verdict = page.wait("document.querySelector('#verdict.good')?.textContent")
    found = re.fullmatch(r"(\d+) missed, (\d+) recovered, in order, 0 lost", verdict)
    assert found is not None
    missed, recovered = map(int, found.groups())
    assert missed == recovered > 0
    page.wait(has_text("typed without a connection"))
    page.wait(has_text(verdict, ".note.recovered"))
    shown = numbers(page)
    assert shown == list(range(1, shown[-1] + 1))
    assert numbers(page, ".missed")[:missed] == list(range(2, missed + 2))
    assert message_texts(page).count("typed without a connection") == 1
    created = [event for event in page.events if event["method"] == "Network.webSocketCreated"]
    assert len(created) >= 2  # more where a busy gateway refuses one
    assert page.evaluate("document.querySelector('#load').ariaPressed") == "false"


def test_what_the_history_no_longer_has_is_counted_as_lost(
    page: Page, gateway: GatewayProcess, channel: str
) -> None:
    publish(gateway, channel, "before")
    page.wait(has_text("before"))
    page.click("#toggle")
    page.wait(has_text("Offline", "#state"))
    publish(gateway, channel, *(f"missed {number}" for number in range(150)))
    page.click("#toggle")
    page.wait(has_text("150 missed, 0 recovered, in order, 150 lost", ".note.gap"))
    page.wait(
        has_text("Messages are missing here: the room's history no longer has all of them", ".note.gap")
    )
    page.wait("document.querySelector('#verdict.failed').textContent.includes('keeps its last 100 messages')")


def test_a_slow_client_falls_behind_alone_and_catches_up(page: Page) -> None:
    page.wait(has_text("Ada (you)", "#members li"))
    page.click("#slow")
    page.wait(has_text("Ada, slow", "#members li"))
    page.evaluate("document.querySelector('#load-rate').value = '200'")
    page.click("#load")
    page.wait("Number(document.querySelector('#slow-behind').textContent) > 100")
    assert page.evaluate("document.querySelector('#slow').ariaChecked") == "true"
    assert "this window does not wait for it." in page.text("#slow-outcome")
    assert page.text("#state") == "Connected"
    page.click("#load")
    page.click("#slow")
    # How many the gateway skips depends on how fast it is: the history keeps 100.
    outcome = "document.querySelector('#slow-outcome').textContent"
    page.wait(f"/It has caught up: in order, \\d+ messages? lost/.test({outcome})")
    page.wait("document.querySelector('#slow-behind').textContent === '0'")


def test_a_slow_client_is_told_what_the_gateway_skips(page: Page) -> None:
    page.click("#slow")
    page.wait(has_text("Ada, slow", "#members li"))
    page.evaluate("document.querySelector('#load-rate').value = '200'")
    page.evaluate("document.querySelector('#load-size').value = '4000'")
    page.click("#load")
    page.wait("Number(document.querySelector('#slow-behind').textContent) > 400")
    page.click("#load")
    page.click("#slow")
    said = "document.querySelector('#slow-outcome').textContent"
    page.wait(f"/The gateway skipped messages for it and said so .*trimmed/.test({said})")
    page.wait(f"{said}.includes('It has caught up: in order, ')")
    assert f"{page.text('#slow-skipped')} messages lost." in page.text("#slow-outcome")
