"""All undocumented parts of uvicorn that are relied on (docs/decisions/uvicorn-protocol-classes.md).

uvicorn's protocol and server are internal classes, and its version is pinned to one minor version. After an
upgrade, a failure here says which of our modules to read beside uvicorn's new source.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import signal
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import Server, ServerState

from gateway.push.fast_path import FastPathHttp
from gateway.push.http import InternalHttp
from gateway.runtime.listeners import Binding, Listener
from gateway.transport.http.bounded_head import BoundedHeadHttp
from gateway.transport.public_http import PublicHttp
from tests.docs.pages import ROOT

PROTOCOLS = (BoundedHeadHttp, PublicHttp, InternalHttp, FastPathHttp)
"""Our subclasses of uvicorn's HTTP protocol."""

PROTOCOL_METHODS = {
    "__init__": ["config", "server_state", "app_state", "_loop"],
    "connection_made": ["transport"],
    "connection_lost": ["exc"],
    "data_received": ["data"],
    "on_message_begin": [],
    "on_url": ["url"],
    "on_header": ["name", "value"],
    "on_headers_complete": [],
    "on_body": ["body"],
    "on_message_complete": [],
    "on_response_complete": [],
    "shutdown": [],
    "eof_received": [],
    "pause_writing": [],
    "resume_writing": [],
    "timeout_keep_alive_handler": [],
    "_should_upgrade": [],
    "_unset_keepalive_if_required": [],
}
"""Methods of `HttpToolsProtocol` that are overridden or called, and their parameters."""

PROTOCOL_ATTRIBUTES = {
    "app_state",
    "client",
    "config",
    "connections",
    "cycle",
    "flow",
    "headers",
    "loop",
    "parser",
    "pipeline",
    "scope",
    "server",
    "server_state",
    "timeout_keep_alive",
    "timeout_keep_alive_task",
    "transport",
    "url",
}
"""Attributes of a `HttpToolsProtocol` that are read or set."""

CYCLE_ATTRIBUTES = {"default_headers", "keep_alive", "response_complete", "response_started", "transport"}
"""Attributes of the present request, `HttpToolsProtocol.cycle`, that are read or set."""

FLOW_ATTRIBUTES = {"pause_reading", "read_paused", "resume_reading", "write_paused"}
"""Attributes of `HttpToolsProtocol.flow` that are read or called."""

SERVER_METHODS = {
    "serve": ["sockets"],
    "startup": ["sockets"],
    "shutdown": ["sockets"],
    "capture_signals": [],
}
"""Methods of `uvicorn.Server` that are overridden or called, and their parameters."""


def changed(name: str, modules: str) -> str:
    """Return the message of a failure: *name* of uvicorn is not what our *modules* rely on."""
    return (
        f"uvicorn {uvicorn.__version__} changed {name}, which {modules} relies on: compare the new source, "
        "then adapt our code, this list, and the version in pyproject.toml"
    )


async def _app(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


async def _protocol() -> HttpToolsProtocol:
    """Return a protocol of uvicorn at the beginning of a request."""
    loop = asyncio.get_running_loop()
    protocol = HttpToolsProtocol(Config(_app, log_config=None), ServerState(), {}, loop)
    protocol.on_message_begin()
    return protocol


def _own_attributes(classes: Iterable[type]) -> Iterator[str]:
    """Yield the name of every attribute of `self` in the source of *classes*, and every name they define."""
    for cls in classes:
        yield from vars(cls)
        for node in ast.walk(ast.parse(inspect.getsource(cls))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            ):
                yield node.attr


def test_the_installed_version_is_the_pinned_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pinned,) = (each for each in project["dependencies"] if each.startswith("uvicorn"))
    match = re.fullmatch(r"uvicorn>=(\d+)\.(\d+),<(\d+)\.(\d+)", pinned)
    assert match is not None, f"{pinned}: uvicorn is pinned to one minor version, as >=x.y,<x.(y+1)"
    major, minor, next_major, next_minor = map(int, match.groups())
    assert (next_major, next_minor) == (major, minor + 1), pinned
    assert version("uvicorn").split(".")[:2] == [str(major), str(minor)], pinned


@pytest.mark.parametrize("name", PROTOCOL_METHODS)
def test_http_protocol_has_the_methods_that_are_overridden_or_called(name: str) -> None:
    method = getattr(HttpToolsProtocol, name, None)
    message = changed(f"HttpToolsProtocol.{name}", "transport/public_http.py or push/http.py")
    assert method is not None, message
    assert _parameters(method) == PROTOCOL_METHODS[name], message


@pytest.mark.parametrize("name", sorted(PROTOCOL_ATTRIBUTES))
async def test_http_protocol_has_the_attributes_that_are_read_or_set(name: str) -> None:
    message = changed(f"HttpToolsProtocol.{name}", "transport/public_http.py or push/http.py")
    assert hasattr(await _protocol(), name), message


async def test_the_lists_name_everything_of_the_http_protocol_that_is_used() -> None:
    theirs = {name for name in dir(await _protocol()) if not hasattr(asyncio.Protocol, name)}
    used = theirs & set(_own_attributes(PROTOCOLS))
    listed = PROTOCOL_ATTRIBUTES | PROTOCOL_METHODS.keys()
    assert used - listed == set(), "add these to the lists above: our protocols use them"


def test_a_request_has_the_attributes_that_are_read_or_set() -> None:
    parameters = dict.fromkeys(inspect.signature(RequestResponseCycle).parameters)
    cycle = RequestResponseCycle(**parameters)  # type: ignore[arg-type] # the constructor only stores them
    for name in CYCLE_ATTRIBUTES:
        assert hasattr(cycle, name), changed(f"RequestResponseCycle.{name}", "push/http.py")


def test_flow_control_has_the_attributes_that_are_read_or_called() -> None:
    flow = FlowControl(asyncio.Transport())
    for name in FLOW_ATTRIBUTES:
        assert hasattr(flow, name), changed(f"FlowControl.{name}", "push/fast_path.py")


def test_a_status_line_has_version_code_phrase_and_line_end() -> None:
    message = changed("STATUS_LINE", "push/http.py and push/fast_path.py")
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n", message
    assert STATUS_LINE[413] == b"HTTP/1.1 413 %b\r\n" % STATUS_LINE[413][13:-2], message


def test_is_ssl_takes_a_transport() -> None:
    assert is_ssl(asyncio.Transport()) is False, changed("is_ssl", "transport/websocket/handshake.py")


def test_server_state_has_connections_default_headers_and_a_count_of_requests() -> None:
    state = ServerState()
    message = changed("ServerState", "transport/websocket/transport.py and push/fast_path.py")
    assert state.connections == set(), message
    assert state.default_headers == [], message
    assert state.total_requests == 0, message


@pytest.mark.parametrize("name", SERVER_METHODS)
def test_server_has_the_methods_that_are_overridden_or_called(name: str) -> None:
    message = changed(f"Server.{name}", "runtime/listeners.py")
    assert _parameters(getattr(Server, name, None)) == SERVER_METHODS[name], message


def test_config_takes_a_callable_as_http_protocol() -> None:
    def http(**_: object) -> None:
        """Create no protocol: it is only compared."""

    config = Config(_app, http=http, lifespan="off", log_config=None)  # type: ignore[arg-type] # as in runtime/listeners.py
    config.load()
    message = changed("Config", "runtime/listeners.py and transport/websocket/handshake.py")
    assert vars(config)["http_protocol_class"] is http, message
    assert callable(config.loaded_app), message


async def test_a_running_server_has_servers_and_connections_and_leaves_signals_alone() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    listener = Listener(_app, Binding("127.0.0.1", 0), http="httptools")
    serving = asyncio.ensure_future(listener.run_until_stopped())
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 204 No Content\r\n"
    message = changed("Server", "runtime/listeners.py")
    assert len(listener.servers) == 1, message
    (connection,) = listener.server_state.connections
    assert callable(connection.shutdown), message
    assert callable(connection.transport.abort), message
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers, message
    listener.stop()
    await serving
    assert not listener.server_state.connections, message
    writer.close()
    await writer.wait_closed()
