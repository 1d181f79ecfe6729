"""A client that follows channels: what it restores, what it shows, what it does when a connection ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import orjson
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from gateway.cli.api_client import Refused, Unreachable
from gateway.cli.listen import Following, Step, as_line, follow
from protocol.codec import JsonCodec
from protocol.errors import ErrorCode
from protocol.messages import (
    Connected,
    Error,
    Expiring,
    Gap,
    Join,
    Member,
    Message,
    Pong,
    Reconnect,
    Refresh,
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


def said(offset: int, channel: str = "a") -> Message:
    return Message(channel, payload_of({"n": offset}), at(offset))


def connected(**subs: Subscribed | Error) -> Connected:
    return Connected(1, "c1", "", "n1", 25.0, subs=subs)


def token() -> str | None:
    return "fresh"


def followed(*, renewable: bool = False) -> Following:
    following = Following(["a"], renewable=renewable, random=lambda: 1.0)
    following.take(connected(a=Subscribed("a", at(4))), token)
    return following


# ---------------------------------------------------------------- decisions


def test_a_connection_asks_for_every_channel_and_what_was_rewound_only_once() -> None:
    following = Following(["a", "b"], rewind=3)
    first = following.connect("t")
    assert (first.id, first.token, sorted(first.subs)) == (1, "t", ["a", "b"])
    assert {sub.rewind for sub in first.subs.values()} == {3}
    following.take(connected(a=Subscribed("a", at(1)), b=Subscribed("b")), token)
    again = following.connect(None).subs
    assert (again["a"].since, again["a"].rewind) == (at(1), None)
    assert (again["b"].since, again["b"].rewind) == (None, 3)


@pytest.mark.parametrize(
    ("made", "position"),
    [
        (Subscribed("a", at(4)), at(4)),
        (Subscribed("a", at(4), messages=[said(2), said(3)]), at(3)),
        (Subscribed("a"), None),
    ],
)
def test_a_resume_begins_behind_what_was_shown_last(made: Subscribed, position: MessageId | None) -> None:
    following = Following(["a"])
    assert following.take(connected(a=made), token).messages == list(made.messages)
    assert following.connect(None).subs["a"].since == position


def test_messages_move_the_position_unless_they_have_none() -> None:
    following = followed()
    assert following.take(said(5), token) == Step([said(5)])
    without = Message("a", payload_of(1))
    assert following.take(without, token) == Step([without])
    assert following.connect(None).subs["a"].since == at(5)


def test_what_is_missing_is_told() -> None:
    following = followed()
    told = following.take(connected(a=Subscribed("a", at(9), recovered=False)), token).notes
    assert told[1:] == ["a: messages may be missing here (history no longer reaches back)"]
    assert following.take(connected(a=Subscribed("a", at(9), recovered=True)), token).notes[1:] == []
    gap = following.take(Gap("a", "overflow", at(20)), token)
    assert gap.notes == ["a: messages are missing here (overflow)"]
    assert following.connect(None).subs["a"].since == at(20)


@pytest.mark.parametrize(
    "event",
    [
        said(1, "other"),
        Gap("other", "reset"),
        Unsubscribed("other"),
        Join("a", Member("c", "u")),
        Subscribed("a", at(1)),
        Expiring(9.0),
    ],
)
def test_what_nobody_asked_for_changes_nothing(event: ServerMessage) -> None:
    following = followed()
    assert following.take(event, token) == Step()
    assert following.connect(None).subs["a"].since == at(4)


def test_a_ping_is_answered() -> None:
    assert followed().take(ServerPing(), token).answer == Pong()


def test_a_token_that_can_be_had_again_is_renewed() -> None:
    following = followed(renewable=True)
    following.connect("t")
    assert following.take(Expiring(9.0), token).answer == Refresh(2, "fresh")
    assert following.take(Expiring(9.0), lambda: None).answer is None


def test_the_server_may_end_subscriptions() -> None:
    following = Following(["a", "b"])
    told = following.take(Unsubscribed("a", "2000", "moderation"), token)
    assert told.notes == ["a: unsubscribed by the server (moderation)"]
    with pytest.raises(Refused, match=r"^b: unsubscribed by the server \(no reason\)$"):
        following.take(Unsubscribed("b"), token)


REFUSALS: list[tuple[ServerMessage, str]] = [
    (Error(ErrorCode.UNAUTHORIZED, "no", id=1), "^unauthorized: no$"),
    (Error(ErrorCode.TOKEN_EXPIRED, "old", id=1), "^token_expired: old$"),
    (connected(a=Error(ErrorCode.PERMISSION_DENIED, "no")), "^a: permission_denied: no$"),
    (connected(), "^a: the gateway did not subscribe to it$"),
]


@pytest.mark.parametrize(("event", "line"), REFUSALS)
def test_a_refusal_is_final(event: ServerMessage, line: str) -> None:
    with pytest.raises(Refused, match=line):
        followed().take(event, token)


PASSING: list[tuple[ServerMessage, bool, float]] = [
    (Error(ErrorCode.RATE_LIMITED, "m", 4000, id=1), False, 4.0),
    (Error(ErrorCode.UNAVAILABLE, "m", id=1), False, 0.5),
    (connected(a=Error(ErrorCode.UNAVAILABLE, "m", 2000)), False, 2.0),
    (Error(ErrorCode.TOKEN_EXPIRED, "m", id=1), True, 0.5),
]


@pytest.mark.parametrize(("event", "renewable", "delay"), PASSING)
def test_what_passes_is_tried_again(event: ServerMessage, renewable: bool, delay: float) -> None:
    assert followed(renewable=renewable).take(event, token).again_in == delay


CLOSES = [
    (1000, False, 0.5),
    (1006, False, 0.5),
    (4000, False, 7.0),
    (4001, False, 0.5),
    (4004, True, 0.5),
    (4006, False, 0.5),
    (4008, False, 60.0),
    (4010, False, 60.0),
    (4011, False, 0.5),
    (4999, False, 0.5),
]


@pytest.mark.parametrize(("code", "renewable", "delay"), CLOSES)
def test_closes_after_which_to_connect_again(code: int, renewable: bool, delay: float) -> None:
    following = followed(renewable=renewable)
    following.take(Reconnect(7000, "drain"), token)
    assert following.closed(code, "") == delay


@pytest.mark.parametrize("code", [1009, 4002, 4003, 4004, 4005, 4012])
def test_closes_that_are_final(code: int) -> None:
    with pytest.raises(Refused, match=f"^the gateway closed with {code}: "):
        followed().closed(code, "")


def test_attempts_in_vain_wait_longer_and_longer_until_one_succeeds() -> None:
    following = followed()
    assert [following.lost() for _ in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    following.take(connected(a=Subscribed("a")), token)
    assert following.lost() == 0.5


def test_a_delay_that_was_told_counts_once() -> None:
    following = followed()
    following.take(Reconnect(7000, "drain"), token)
    assert [following.closed(4000, ""), following.closed(4000, "")] == [7.0, 0.5]


# ---------------------------------------------------------------- on a socket

Script = Callable[[ServerConnection, int], None]


@contextmanager
def gateway(script: Script, refuse: Callable[[int], int | None] = lambda _: None) -> Iterator[str]:
    """Run a server that plays *script* on each connection, and yield its URL."""
    attempts = 0

    def process(connection: ServerConnection, _: Request) -> Response | None:
        nonlocal attempts
        attempts += 1
        status = refuse(attempts)
        return (
            None if status is None else connection.respond(status, '{"error": {"code": "c", "message": "m"}}')
        )

    def played(connection: ServerConnection) -> None:
        try:
            script(connection, attempts)
        except ConnectionClosed:
            return

    server: Server = serve(
        played,
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


def hear(connection: ServerConnection) -> dict[str, object]:
    heard: dict[str, object] = orjson.loads(connection.recv())
    return heard


def say(connection: ServerConnection, message: ServerMessage) -> None:
    connection.send(CODEC.encode(message), text=True)


def test_the_stream_goes_on_across_connections() -> None:
    heard: list[object] = []

    def script(connection: ServerConnection, attempt: int) -> None:
        heard.append(hear(connection)["subs"])
        if attempt == 1:
            say(connection, connected(a=Subscribed("a", at(0))))
            say(connection, said(1))
            connection.send('{"type": "from the future"}')
            say(connection, ServerPing())
            heard.append(hear(connection))
            say(connection, Reconnect(250, "drain"))
            connection.close(4000)
        else:
            say(connection, connected(a=Subscribed("a", at(2), recovered=True, messages=[said(2)])))
            connection.close(4005, "enough")

    shown: list[str] = []
    told: list[str] = []
    slept: list[float] = []
    with gateway(script) as url, pytest.raises(Refused, match=r"^the gateway closed with 4005: enough$"):
        follow(
            url,
            Following(["a"]),
            token=lambda: None,
            show=lambda message: shown.append(as_line(message)),
            tell=told.append,
            sleep=slept.append,
        )
    assert heard == [{"a": {}}, {"type": "pong"}, {"a": {"since": "1-u"}}]
    assert [orjson.loads(line) for line in shown] == [
        {"type": "message", "channel": "a", "message": f"{n}-u", "data": {"n": n}} for n in (1, 2)
    ]
    assert slept == [0.25]
    assert "connecting again in 0.2 s" in told


def test_a_gateway_that_was_there_is_waited_for() -> None:
    def script(connection: ServerConnection, attempt: int) -> None:
        hear(connection)
        say(connection, connected(a=Subscribed("a")))
        connection.close(1012 if attempt == 1 else 4005)

    told: list[str] = []
    slept: list[float] = []
    with gateway(script, {2: 503, 3: 429}.get) as url, pytest.raises(Refused):
        follow(url, Following(["a"]), token=token, show=lambda _: None, tell=told.append, sleep=slept.append)
    assert len(slept) == 3
    assert sum("the gateway refused: c: m" in line for line in told) == 2


@pytest.mark.parametrize(("status", "error"), [(503, Unreachable), (429, Unreachable), (403, Refused)])
def test_a_handshake_that_is_denied_at_first(status: int, error: type[Exception]) -> None:
    def script(connection: ServerConnection, _: int) -> None:
        hear(connection)

    with (
        gateway(script, lambda _: status) as url,
        pytest.raises(error, match="the gateway refused: c: m"),
    ):
        follow(url, Following(["a"]), token=token, show=lambda _: None, tell=lambda _: None)
