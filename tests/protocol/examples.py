"""Examples of every message, by name, for the vectors and for the tests of truncated frames."""

from __future__ import annotations

from typing import Any

from protocol.errors import ErrorCode
from protocol.messages import (
    ClientInfo,
    ClientMessage,
    Connect,
    Connected,
    Error,
    Expiring,
    Gap,
    History,
    HistoryPage,
    Join,
    Leave,
    Member,
    Message,
    Ping,
    Pong,
    PongReply,
    Presence,
    PresenceState,
    Publish,
    Published,
    Reconnect,
    Refresh,
    Refreshed,
    Resume,
    Sender,
    ServerMessage,
    ServerPing,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)
from protocol.payload import payload_of
from protocol.position import MessageId

ROOM = "chat:room-42"
TOKEN = "header.claims.signature"
START = MessageId(0, "Zk3vQ1")
OLD = MessageId(1041, "h7TqLw")
NEW = MessageId(1042, "p0Xr_2")
ANNA = Member("c-7Qm2", "anna", {"name": "Anna", "age": 36})
GUEST = Member("c-9Lk4", "")

DATA: dict[str, Any] = {
    "null": None,
    "false": False,
    "empty text": "",
    "empty array": [],
    "empty map": {},
    "smallest integer of 64 bits": -(2**63),
    "largest integer of 64 bits": 2**64 - 1,
    "largest integer that JavaScript holds": 2**53 - 1,
    "a float with an exponent": 6.02214076e23,
    "a float that is whole": 2.0,
    "text of every width": 'a ß € 😀 \u0000 \u2028 " \\ /',
    "text that looks like an exponent": "e19 1e+20 18446744073709551616",
    "keys of any kind": {"": 1, "a b": 2, "ключ": 3, "type": "publish", "id": 0},
    "nested": {"list": [[1, [2, [3]]], {"deep": {"deeper": [None, True]}}]},
}

COMMANDS: dict[str, ClientMessage] = {
    "connect without a token": Connect(1),
    "connect": Connect(1, token=TOKEN, client=ClientInfo("acme-web", "4.2.0")),
    "connect with a nameless version": Connect(1, client=ClientInfo("acme-web")),
    "connect and restore": Connect(
        1,
        token=TOKEN,
        subs={ROOM: Resume(since=OLD), "news": Resume(), "doc:7": Resume(token=TOKEN, rewind=10)},
    ),
    "subscribe": Subscribe(2, ROOM),
    "subscribe since a message": Subscribe(2, ROOM, since=OLD),
    "subscribe with everything": Subscribe(
        2, ROOM, token=TOKEN, since=START, rewind=5, join_leave=True, members=True
    ),
    "subscribe without joins and leaves": Subscribe(2, ROOM, join_leave=False),
    "unsubscribe": Unsubscribe(3, ROOM),
    "publish": Publish(4, ROOM, payload_of({"text": "hello"})),
    "publish once": Publish(4, ROOM, payload_of({"text": "hello"}), key="order-17"),
    "presence": Presence(5, ROOM),
    "presence with members": Presence(5, ROOM, members=True),
    "history": History(6, ROOM),
    "history after a message": History(6, ROOM, limit=50, since=OLD),
    "history backwards": History(6, ROOM, limit=0, reverse=True),
    "refresh": Refresh(7, TOKEN),
    "ping": Ping(2**53 - 1),
    "pong": Pong(),
    **{f"publish {name}": Publish(4, ROOM, payload_of(value)) for name, value in DATA.items()},
}

HELLO = Message(ROOM, payload_of({"text": "hello"}), NEW, Sender("c-7Qm2", "anna"), None, 1_767_225_600_000)

SERVER_MESSAGES: dict[str, ServerMessage] = {
    "connected": Connected(
        1,
        "c-7Qm2",
        "anna",
        "node-a",
        25.0,
        3600.0,
        {"message_size": 65536},
        {"@anna": Subscribed("@anna", START)},
    ),
    "connected anonymously": Connected(1, "c-9Lk4", "", "node-a", 25.0),
    "connected and restored": Connected(
        1,
        "c-7Qm2",
        "anna",
        "node-a",
        25.0,
        subs={
            ROOM: Subscribed(ROOM, NEW, recovered=True, messages=(HELLO,)),
            "doc:7": Error(ErrorCode.PERMISSION_DENIED, "the token is for another channel"),
        },
    ),
    "subscribed": Subscribed(ROOM, NEW, id=2),
    "subscribed without history": Subscribed("news", id=2),
    "subscribed and recovered": Subscribed(ROOM, NEW, recovered=True, messages=(HELLO,), id=2),
    "subscribed with members": Subscribed(ROOM, NEW, members=(ANNA, GUEST), id=2),
    "subscribed with some of the members": Subscribed(ROOM, NEW, members=(ANNA,), id=2, truncated=True),
    "subscribed by a user who returned": Subscribed(ROOM, NEW, recovered=True, id=2, listed_as="c-7Qm2"),
    "subscribed by the server": Subscribed("@anna", START),
    "unsubscribed": Unsubscribed(ROOM, id=3),
    "unsubscribed by the server": Unsubscribed(ROOM, "permission_denied", "you left the team"),
    "published": Published(4, ROOM, NEW),
    "published without history": Published(4, "news"),
    "presence": PresenceState(5, ROOM, 3, 2),
    "presence with members": PresenceState(5, ROOM, 2, 2, (ANNA, GUEST)),
    "presence with some of the members": PresenceState(5, ROOM, 2, 2, (ANNA,), truncated=True),
    "history": HistoryPage(6, ROOM, NEW, (HELLO,)),
    "history of an empty channel": HistoryPage(6, ROOM, START),
    "history of a channel that keeps none": HistoryPage(6, "news"),
    "refreshed": Refreshed(7, 3600.0),
    "pong": PongReply(8),
    "error": Error(ErrorCode.NOT_SUBSCRIBED, f"this connection is not subscribed to {ROOM}", id=3),
    "error to retry": Error(ErrorCode.RATE_LIMITED, "too many commands", 250, id=4),
    "error without a command": Error(ErrorCode.BAD_REQUEST, "no JSON: unexpected end of data"),
    "message": HELLO,
    "message without history": Message("news", payload_of("flash")),
    "message with tags": Message(ROOM, payload_of(1), NEW, tags={"kind": "edit", "lang": "en"}, time=0),
    "join": Join(ROOM, ANNA),
    "leave": Leave(ROOM, GUEST),
    "gap by overflow": Gap(ROOM, "overflow", OLD),
    "gap without history": Gap("news", "reset"),
    "ping": ServerPing(),
    "expiring": Expiring(60.0),
    "reconnect": Reconnect(4200, "the node drains"),
    **{f"message {name}": Message(ROOM, payload_of(value), NEW) for name, value in DATA.items()},
}
