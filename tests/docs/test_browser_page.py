"""The page of docs/getting-started.md in a browser, as it stands there but for the port."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.docs.pages import ROOT, Page
from tests.e2e.browser import chromium
from tests.e2e.demo.kit import publish
from tests.e2e.gateway import gateway_process

GUIDE = Page(ROOT / "docs" / "getting-started.md")
# Lets the test cut the connection, which the page keeps to itself; a busy machine's gateway may refuse some.
SOCKETS = """
    window.opened = [];
    window.WebSocket = class extends WebSocket {
        constructor(...where) {
            super(...where);
            this.addEventListener("open", () => window.opened.push(this));
        }
    };
"""
SHOWN = "[...document.querySelectorAll('#messages li')].map((item) => item.textContent)"


def test_page_shows_live_and_missed_messages(tmp_path: Path) -> None:
    (html,) = (block.text for block in GUIDE.blocks if block.language == "html")
    with gateway_process(tmp_path) as gateway, folder(tmp_path) as address:
        (tmp_path / "page.html").write_text(html.replace("8000", str(gateway.public)))
        publish(gateway, "demo", "before")
        with chromium(tmp_path / "profile") as browser, browser.page() as tab:
            tab.call("Page.addScriptToEvaluateOnNewDocument", source=SOCKETS)
            tab.open(f"{address}/page.html")
            tab.wait(f"{SHOWN}.includes('before')")
            publish(gateway, "demo", "live")
            tab.wait(f"{SHOWN}.includes('live')")
            tab.evaluate("window.opened[0].close()")
            publish(gateway, "demo", "missed", "<b>missed, too</b>")
            tab.wait(f"{SHOWN}.length === 4")
            assert tab.evaluate(SHOWN) == ["before", "live", "missed", "<b>missed, too</b>"]
            assert tab.evaluate("window.opened.length") == 2
            assert [line for line in tab.problems() if "favicon" not in line] == []


@contextmanager
def folder(path: Path) -> Iterator[str]:
    """Serve what is in *path*, as `python3 -m http.server` does; yields where."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(path))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
