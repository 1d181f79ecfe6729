"""Hypothesis strategies for every message, and how many examples a test takes."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from protocol import limits
from protocol.errors import ErrorCode
from protocol.messages import (
    ClientInfo,
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
    ServerPing,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)
from protocol.payload import payload_of
from protocol.position import MessageId

WORD = string.ascii_letters + string.digits + "_"

bounded = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Without a deadline, because a slow machine is not a fault of the code."""

ids = st.integers(1, limits.COMMAND_ID)
counts = st.integers(0, limits.COMMAND_ID)
channels = st.text(WORD + ".:@~-", min_size=1, max_size=limits.CHANNEL_NAME)
tokens = st.text(min_size=1, max_size=40)
message_ids = st.builds(MessageId, st.integers(0, 10**16 - 1), st.text(WORD, min_size=1, max_size=32))
seconds = st.floats(0, 1e9) | st.integers(0, 10**9)
numbers = st.integers(limits.INT_MIN, limits.INT_MAX) | st.floats(allow_nan=False, allow_infinity=False)
values: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
payloads = st.builds(payload_of, values)
maybe = st.none().__or__

resumes = st.builds(Resume, maybe(message_ids), maybe(tokens), maybe(counts))
clients = st.builds(ClientInfo, st.text(min_size=1, max_size=128), maybe(st.text(min_size=1, max_size=64)))
members = st.builds(Member, st.text(), st.text(), values)
rosters = st.lists(members, max_size=3).map(tuple)
errors = st.builds(Error, st.sampled_from(ErrorCode), st.text(), maybe(counts), maybe(ids))
messages = st.builds(
    Message,
    channels,
    payloads,
    maybe(message_ids),
    maybe(st.builds(Sender, st.text(), st.text())),
    maybe(st.dictionaries(st.text(max_size=limits.TAG_SIZE), st.text(max_size=limits.TAG_SIZE), max_size=4)),
    maybe(counts),
)
replays = st.lists(messages, max_size=3).map(tuple)
subscribed = st.builds(
    Subscribed,
    channels,
    maybe(message_ids),
    st.booleans(),
    replays,
    maybe(rosters),
    maybe(ids),
    st.none(),
    maybe(st.text()),
)

COMMANDS: dict[type, SearchStrategy[Any]] = {
    Connect: st.builds(
        Connect,
        ids,
        token=maybe(tokens),
        client=maybe(clients),
        subs=st.dictionaries(channels, resumes, max_size=3),
    ),
    Subscribe: st.builds(
        Subscribe,
        ids,
        channels,
        token=maybe(tokens),
        since=maybe(message_ids),
        rewind=maybe(counts),
        join_leave=maybe(st.booleans()),
        members=st.booleans(),
    ),
    Unsubscribe: st.builds(Unsubscribe, ids, channels),
    Publish: st.builds(
        Publish, ids, channels, payloads, key=maybe(st.text(min_size=1, max_size=limits.IDEMPOTENCY_KEY))
    ),
    Presence: st.builds(Presence, ids, channels, members=st.booleans()),
    History: st.builds(
        History, ids, channels, limit=maybe(counts), since=maybe(message_ids), reverse=st.booleans()
    ),
    Refresh: st.builds(Refresh, ids, tokens),
    Ping: st.builds(Ping, ids),
    Pong: st.builds(Pong),
}

SERVER_MESSAGES: dict[type, SearchStrategy[Any]] = {
    Connected: st.builds(
        Connected,
        ids,
        st.text(),
        st.text(),
        st.text(),
        seconds,
        maybe(seconds),
        st.dictionaries(st.text(), numbers, max_size=3),
        st.dictionaries(channels, subscribed | errors, max_size=2),
    ),
    Subscribed: subscribed,
    Unsubscribed: st.builds(Unsubscribed, channels, maybe(st.text()), maybe(st.text()), maybe(ids)),
    Published: st.builds(Published, ids, channels, maybe(message_ids)),
    PresenceState: st.builds(
        PresenceState, ids, channels, counts, counts, maybe(rosters), maybe(st.booleans())
    ),
    HistoryPage: st.builds(HistoryPage, ids, channels, maybe(message_ids), replays),
    Refreshed: st.builds(Refreshed, ids, seconds),
    PongReply: st.builds(PongReply, ids),
    Error: errors,
    Message: messages,
    Join: st.builds(Join, channels, members),
    Leave: st.builds(Leave, channels, members),
    Gap: st.builds(Gap, channels, st.sampled_from(["overflow", "trimmed", "reset"]), maybe(message_ids)),
    ServerPing: st.builds(ServerPing),
    Expiring: st.builds(Expiring, seconds),
    Reconnect: st.builds(Reconnect, counts, st.text()),
}
