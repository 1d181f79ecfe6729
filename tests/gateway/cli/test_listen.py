"""`fanway listen` on a socket: what it sends, prints and notes, and after which ends it connects again.

What it decides is tested without a socket in tests/protocol/test_client.py.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any, NoReturn

import orjson
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from gateway import __version__
from gateway.cli.api_client import Refused, Unreachable
from gateway.cli.listen import ChannelListener, Clock, TokenSource, as_line, notes
from protocol.client import NO_EFFECTS, NOT_RECOVERED, Effects, Reset, Retry, RetrySubscription, Stop
from protocol.codec import JsonCodec
from protocol.errors import ErrorCode
from protocol.messages import (
    Connected,
    Error,
    Expiring,
    Gap,
    Message,
    Reconnect,
    ServerMessage,
    ServerPing,
    Subscribed,
    Unsubscribed,
)
from protocol.payload import payload_of
from protocol.position import MessageId

CODEC = JsonCodec()


def at(offset: int) -> MessageId:
    return MessageId(offset, "u")


def message(offset: int, channel: str = "a") -> Message:
    return Message(channel, payload_of({"n": offset}), at(offset))


def connected(**subs: Subscribed | Error) -> Connected:
    return Connected(1, "c1", "", "n1", 25.0, subs=subs)


# ---------------------------------------------------------------- notes for people

LISTENING = "listening as connection c1 on node n1"
LATER = Error(ErrorCode.UNAVAILABLE, "later", 2000)

NOTES: list[tuple[ServerMessage, Effects, list[str]]] = [
    (connected(a=Subscribed("a")), NO_EFFECTS, [LISTENING]),
    (
        connected(a=Subscribed("a", at(9), recovered=False)),
        Effects(resets=(Reset("a", NOT_RECOVERED),)),
        [LISTENING, "a: messages may be missing here (history no longer reaches back)"],
    ),
    (
        Gap("a", "overflow", at(20)),
        Effects(resets=(Reset("a", "overflow"),)),
        ["a: messages are missing here (overflow)"],
    ),
    (Gap("@u", "overflow"), Effects(resets=(Reset("@u", "overflow"),)), []),
    (
        connected(a=LATER),
        Effects(retries=(RetrySubscription("a", 2.0, LATER),)),
        [LISTENING, "a: unavailable: later"],
    ),
    (LATER, Effects(decision=Retry(2.0)), ["unavailable: later"]),
    (LATER, Effects(decision=Stop("unavailable: later")), []),
    (message(1), Effects(messages=(message(1),)), []),
]


@pytest.mark.parametrize(("received", "effects", "lines"), NOTES)
def test_people_read_what_happened_to_the_connection_and_the_channels(
    received: ServerMessage, effects: Effects, lines: list[str]
) -> None:
    assert notes(received, effects, {"a"}) == lines


# ---------------------------------------------------------------- on a socket

Script = Callable[[ServerConnection, int], None]


@contextmanager
def gateway(
    script: Script,
    status_of: Callable[[int], int | None] = lambda _: None,
    retry_after_of: Callable[[int], str | None] = lambda _: None,
) -> Iterator[str]:
    """Run a server that plays *script* on each connection; yield its URL.

    An attempt for which *status_of* returns a status is refused, with Retry-After as *retry_after_of* says.
    """
    attempts = 0

    def process(connection: ServerConnection, _: Request) -> Response | None:
        nonlocal attempts
        attempts += 1
        status, retry_after = status_of(attempts), retry_after_of(attempts)
        if status is None:
            return None
        response = connection.respond(status, '{"error": {"code": "c", "message": "m"}}')
        if retry_after is not None:
            response.headers["Retry-After"] = retry_after
        return response

    def play(connection: ServerConnection) -> None:
        try:
            script(connection, attempts)
        except ConnectionClosed:
            return

    server: Server = serve(
        play,
        "127.0.0.1",
        0,
        subprotocols=[Subprotocol(CODEC.subprotocol)],
        process_request=process,
        compression=None,
    )
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/v1/ws"
    finally:
        server.shutdown()
        thread.join()


def receive(connection: ServerConnection) -> dict[str, object]:
    received: dict[str, object] = orjson.loads(connection.recv())
    return received


def send(connection: ServerConnection, message: ServerMessage) -> None:
    connection.send(CODEC.encode(message), text=True)


TOKEN_OPTIONS = ("get_token", "can_fetch_token", "get_channel_token")


class Listening:
    """A listener that runs until the gateway refuses it; what it received, noted and slept."""

    def __init__(self, *channels: str, **options: Any) -> None:
        self.channels = channels
        source = {name: options.pop(name) for name in TOKEN_OPTIONS if name in options}
        self.options = {"tokens": TokenSource(**source), "random": lambda: 1.0, **options}
        self.messages: list[str] = []
        self.notes: list[str] = []
        self.sleeps: list[float] = []

    def run(self, url: str) -> NoReturn:
        ChannelListener(
            url,
            self.channels or ("a",),
            on_message=lambda message: self.messages.append(as_line(message)),
            on_note=self.notes.append,
            clock=Clock(sleep=self.sleeps.append),
            **self.options,
        ).run()


def test_messages_continue_across_connections() -> None:
    received: list[object] = []

    def script(connection: ServerConnection, attempt: int) -> None:
        received.append(receive(connection)["subs"])
        if attempt == 1:
            send(connection, connected(a=Subscribed("a", at(0))))
            send(connection, message(1))
            connection.send('{"type": "from the future"}')
            send(connection, ServerPing())
            received.append(receive(connection))
            send(connection, Reconnect(250, "drain"))
            connection.close(4000)
        else:
            send(connection, connected(a=Subscribed("a", at(2), recovered=True, messages=[message(2)])))
            connection.close(4005, "enough")

    listening = Listening()
    with gateway(script) as url, pytest.raises(Refused, match=r"^the gateway closed with 4005: enough$"):
        listening.run(url)
    assert received == [{"a": {}}, {"type": "pong"}, {"a": {"since": "1-u"}}]
    assert [orjson.loads(line) for line in listening.messages] == [
        {"type": "message", "channel": "a", "message": f"{n}-u", "data": {"n": n}} for n in (1, 2)
    ]
    assert listening.sleeps == [0.25]
    assert "connecting again in 0.2 s" in listening.notes


def test_a_gateway_that_was_reached_once_is_tried_until_it_answers() -> None:
    def script(connection: ServerConnection, attempt: int) -> None:
        receive(connection)
        send(connection, connected(a=Subscribed("a")))
        connection.close(1012 if attempt == 1 else 4005)

    listening = Listening()
    with gateway(script, {2: 503, 3: 429}.get) as url, pytest.raises(Refused):
        listening.run(url)
    assert listening.sleeps == [0.5, 1.0, 2.0]
    assert sum("the gateway rejected it: c: m" in line for line in listening.notes) == 2


def test_retry_after_comes_before_the_backoff() -> None:
    def script(connection: ServerConnection, attempt: int) -> None:
        receive(connection)
        send(connection, connected(a=Subscribed("a")))
        connection.close(1012 if attempt == 1 else 4005)

    listening = Listening()
    with (
        gateway(script, {2: 503, 3: 503}.get, {2: "7", 3: "Wed, 21 Oct 2026 07:28:00 GMT"}.get) as url,
        pytest.raises(Refused),
    ):
        listening.run(url)
    assert listening.sleeps == [0.5, 8.0, 2.0]


@pytest.mark.parametrize(("status", "error"), [(503, Unreachable), (429, Unreachable), (403, Refused)])
def test_a_handshake_that_is_refused_at_first(status: int, error: type[Exception]) -> None:
    def script(connection: ServerConnection, _: int) -> None:
        receive(connection)

    with (
        gateway(script, lambda _: status) as url,
        pytest.raises(error, match="the gateway rejected it: c: m"),
    ):
        Listening().run(url)


def refuse(script: Script, line: str, **options: Any) -> Listening:
    """Run a listener against *script* until it raises `Refused` with *line*; return it."""
    listening = Listening(**options)
    with gateway(script) as url, pytest.raises(Refused, match=line):
        listening.run(url)
    return listening


REFUSALS: list[tuple[ServerMessage, str]] = [
    (Error(ErrorCode.UNAUTHORIZED, "no", id=1), "^unauthorized: no$"),
    (Error(ErrorCode.TOKEN_EXPIRED, "old", id=1), "^token_expired: old$"),
    (connected(a=Error(ErrorCode.PERMISSION_DENIED, "no")), "^a: permission_denied: no$"),
    (connected(), "^a: the gateway did not subscribe to it$"),
]


@pytest.mark.parametrize(("answer", "line"), REFUSALS)
def test_a_refusal_is_final(answer: ServerMessage, line: str) -> None:
    def script(connection: ServerConnection, _: int) -> None:
        receive(connection)
        send(connection, answer)
        connection.recv()

    assert refuse(script, line).sleeps == []


TRANSIENT: list[tuple[ServerMessage, bool, float]] = [
    (Error(ErrorCode.RATE_LIMITED, "m", 4000, id=1), False, 4.0),
    (Error(ErrorCode.UNAVAILABLE, "m", id=1), False, 0.5),
    (Error(ErrorCode.TOKEN_EXPIRED, "m", id=1), True, 0.5),
]


@pytest.mark.parametrize(("answer", "can_fetch_token", "delay"), TRANSIENT)
def test_a_transient_refusal_is_tried_again(
    answer: ServerMessage, can_fetch_token: bool, delay: float
) -> None:
    def script(connection: ServerConnection, attempt: int) -> None:
        receive(connection)
        if attempt == 1:
            send(connection, answer)
            connection.recv()
        connection.close(4005)

    listening = refuse(script, "4005", can_fetch_token=can_fetch_token)
    assert listening.sleeps == [delay]


def test_an_expired_channel_token_is_renewed_on_the_same_connection() -> None:
    received: list[object] = []

    def script(connection: ServerConnection, _: int) -> None:
        received.append(receive(connection)["subs"])
        send(connection, connected(a=Subscribed("a", at(1))))
        send(connection, Unsubscribed("a", "token_expired", "the channel token has expired"))
        renewed = receive(connection)
        received.append(renewed)
        send(connection, Subscribed("a", at(2), recovered=True, messages=[message(2)], id=renewed["id"]))  # type: ignore[arg-type]
        connection.close(4005)

    tokens = iter(["first", "second"])
    listening = refuse(script, "4005", get_channel_token=lambda _: next(tokens))
    assert received == [
        {"a": {"token": "first"}},
        {"type": "subscribe", "id": 2, "channel": "a", "token": "second", "since": "1-u"},
    ]
    assert [orjson.loads(line)["message"] for line in listening.messages] == ["2-u"]
    assert (listening.sleeps, listening.notes) == ([], [LISTENING])


def test_a_channel_that_is_refused_for_the_moment_is_tried_again_on_the_same_connection() -> None:
    received: list[object] = []

    def script(connection: ServerConnection, _: int) -> None:
        receive(connection)
        send(connection, connected(a=Error(ErrorCode.UNAVAILABLE, "later", 20), b=Subscribed("b")))
        received.append(receive(connection))
        connection.close(4005)

    listening = Listening("a", "b", random=lambda: 0.0)
    with gateway(script) as url, pytest.raises(Refused, match="4005"):
        listening.run(url)
    assert received == [{"type": "subscribe", "id": 2, "channel": "a"}]
    assert (listening.sleeps, listening.notes) == ([], [LISTENING, "a: unavailable: later"])


def test_channel_tokens_that_are_rejected_twice_are_fetched_again_after_a_delay() -> None:
    received: list[object] = []

    def script(connection: ServerConnection, _: int) -> None:
        receive(connection)
        send(connection, connected(a=Error(ErrorCode.UNAUTHORIZED, "no")))
        for _ in range(2):
            renewed = receive(connection)
            received.append(renewed["token"])
            send(connection, Error(ErrorCode.UNAUTHORIZED, "no", id=renewed["id"]))  # type: ignore[arg-type]
        connection.close(4005)

    tokens = iter(["first", "second", "third"])
    listening = refuse(script, "4005", get_channel_token=lambda _: next(tokens), random=lambda: 0.01)
    assert received == ["second", "third"]
    assert listening.sleeps == []
    assert "a: unauthorized: no" in listening.notes


CLOSES = [
    (1000, False, 0.5),
    (4000, False, 7.0),
    (4001, False, 0.5),
    (4004, True, 0.5),
    (4006, False, 0.5),
    (4008, False, 30.0),
    (4010, False, 30.0),
    (4011, False, 0.5),
    (4999, False, 0.5),
]


@pytest.mark.parametrize(("code", "can_fetch_token", "delay"), CLOSES)
def test_after_some_closes_it_connects_again(code: int, can_fetch_token: bool, delay: float) -> None:
    def script(connection: ServerConnection, attempt: int) -> None:
        receive(connection)
        send(connection, connected(a=Subscribed("a", at(4))))
        send(connection, Reconnect(7000, "drain"))
        connection.close(code if attempt == 1 else 4005)

    assert refuse(script, "4005", can_fetch_token=can_fetch_token).sleeps == [delay]


def test_after_a_connection_that_breaks_it_connects_again() -> None:
    def script(connection: ServerConnection, attempt: int) -> None:
        receive(connection)
        if attempt == 1:
            connection.socket.shutdown(socket.SHUT_RDWR)
        else:
            connection.close(4005)

    assert refuse(script, "4005").sleeps == [0.5]


def test_after_a_connection_that_is_silent_for_too_long_it_connects_again() -> None:
    def script(connection: ServerConnection, attempt: int) -> None:
        receive(connection)
        if attempt == 1:
            send(connection, connected(a=Subscribed("a", at(4))))
            connection.recv()
        connection.close(4005)

    assert refuse(script, "4005", silence_limit=lambda _: 0.2).sleeps == [0.5]


def test_a_message_that_arrives_slowly_is_no_silence() -> None:
    payload = CODEC.encode(message(5))
    frame = bytes([0x81, len(payload)]) + payload
    pieces = [frame[begin : begin + 8] for begin in range(0, len(frame), 8)]

    def script(connection: ServerConnection, attempt: int) -> None:
        assert attempt == 1
        receive(connection)
        send(connection, connected(a=Subscribed("a", at(4))))
        for piece in pieces:
            time.sleep(0.1)
            connection.socket.sendall(piece)
        connection.close(4005)

    limits = iter([5.0])
    listening = Listening(silence_limit=lambda _: next(limits, 0.4))
    with gateway(script) as url, pytest.raises(Refused, match="4005"):
        listening.run(url)
    assert [orjson.loads(line)["message"] for line in listening.messages] == ["5-u"]


@pytest.mark.parametrize("code", [1009, 4002, 4003, 4004, 4005, 4012])
def test_after_other_closes_it_ends(code: int) -> None:
    def script(connection: ServerConnection, _: int) -> None:
        receive(connection)
        connection.close(code)

    assert refuse(script, f"^the gateway closed with {code}: ").sleeps == []


def test_the_server_may_end_subscriptions() -> None:
    def script(connection: ServerConnection, _: int) -> None:
        receive(connection)
        send(connection, connected(a=Subscribed("a"), b=Subscribed("b")))
        send(connection, Unsubscribed("a", "2000", "moderation"))
        send(connection, Unsubscribed("b"))
        connection.recv()

    listening = Listening("a", "b")
    line = r"^b: unsubscribed by the server \(no reason\)$"
    with gateway(script) as url, pytest.raises(Refused, match=line):
        listening.run(url)
    assert listening.notes[1:] == ["a: unsubscribed by the server (moderation)"]


def test_channels_that_the_server_added_are_not_printed() -> None:
    def script(connection: ServerConnection, _: int) -> None:
        receive(connection)
        own = {"@u": Subscribed("@u", at(1), messages=[message(1, "@u")])}
        send(connection, connected(a=Subscribed("a"), **own))
        send(connection, message(2, "@u"))
        send(connection, Unsubscribed("@u"))
        send(connection, message(3))
        connection.close(4005)

    listening = refuse(script, "4005")
    assert [orjson.loads(line)["message"] for line in listening.messages] == ["3-u"]
    assert listening.notes == [LISTENING]


@pytest.mark.parametrize(
    ("can_fetch_token", "fetched", "answers"),
    [
        (True, "fresh", [{"type": "refresh", "id": 2, "token": "fresh"}, {"type": "pong"}]),
        (True, None, [{"type": "pong"}]),
        (False, "fresh", [{"type": "pong"}]),
    ],
)
def test_a_token_that_is_about_to_expire_is_replaced_where_there_is_another(
    can_fetch_token: bool, fetched: str | None, answers: list[object]
) -> None:
    received: list[object] = []

    def script(connection: ServerConnection, _: int) -> None:
        assert receive(connection)["token"] == "first"
        send(connection, connected(a=Subscribed("a")))
        send(connection, Expiring(9.0))
        send(connection, ServerPing())
        received.extend(receive(connection) for _ in answers)
        connection.close(4005)

    tokens = iter(["first", fetched])
    refuse(script, "4005", get_token=lambda: next(tokens), can_fetch_token=can_fetch_token)
    assert received == answers


def test_the_last_messages_are_asked_for_until_there_is_a_position() -> None:
    received: list[object] = []

    def script(connection: ServerConnection, attempt: int) -> None:
        received.append(receive(connection))
        send(connection, connected(a=Subscribed("a", at(1))))
        connection.close(1012 if attempt == 1 else 4005)

    refuse(script, "4005", rewind=3)
    client = {"name": "fanway listen", "version": __version__}
    assert received == [
        {"type": "connect", "id": 1, "client": client, "subs": {"a": {"rewind": 3}}},
        {"type": "connect", "id": 1, "client": client, "subs": {"a": {"since": "1-u"}}},
    ]
