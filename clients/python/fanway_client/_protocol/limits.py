"""The bounds that protect a gateway and its clients; settings may lower most of them.

See docs/protocol.md#limits.
"""

from __future__ import annotations

CHANNEL_NAME = 128
"""Characters in the name of a channel."""

PERSONAL_CHANNEL_NAME = 512
"""Characters in the name of a personal channel, in which most characters of a user take three or more."""

COMMAND_ID = 2**53 - 1
"""The largest command id: what a JavaScript number holds exactly (ECMA-262, Number.MAX_SAFE_INTEGER)."""

DEPTH = 64
"""Levels of arrays and maps in a message from a client. orjson encodes 254; other parsers accept fewer."""

SERVER_MESSAGE_DEPTH = DEPTH + 4
"""Levels in a reply or push: `data` is one level down in `publish`, and up to five in `connected`."""

MESSAGE_SIZE = 64 * 1024
"""Bytes in the `data` of one message, as JSON; a publish with more is rejected as `too_large`."""

ENVELOPE_SIZE = 4 * 1024
"""Bytes in a command beside its `data`."""


def encoded_size(message_size: int) -> int:
    """Return the bytes that a command from a client may have if its `data` has at most *message_size*.

    A third more, which base64 or some escapes in JSON add, and `ENVELOPE_SIZE`.
    """
    return message_size * 4 // 3 + ENVELOPE_SIZE


ENCODED_SIZE = encoded_size(MESSAGE_SIZE)
"""Bytes in one message from a client; beyond them the connection is closed with 1009 (RFC 6455, 7.4.1)."""

IDEMPOTENCY_KEY = 128
"""Characters in the `key` of a publish."""

CLIENT_NAME, CLIENT_VERSION = 128, 64
"""Characters in the name and in the version of a client."""

TOKEN_SIZE = 8 * 1024
"""Characters in a token; longer tokens are rejected before a signature is verified."""

TAGS = 32
"""Entries in the `tags` of a message."""

TAG_SIZE = 256
"""Characters in the name, and in the value, of a tag."""

SUBSCRIPTIONS_AT_CONNECT = 1_000
"""Entries in the `subs` of a `connect`."""

HISTORY_LIMIT = 1_000
"""Messages in one `history` reply."""

INT_MIN, INT_MAX = -(2**63), 2**64 - 1
"""Integers that both codecs encode exactly (the int 64 and uint 64 of the MessagePack specification)."""

CONNECT_TIMEOUT = 5.0
"""Seconds in which `connect` must arrive, else 4001 closes the connection (docs/protocol.md#connect)."""

FRAGMENTS_PER_SECOND, FRAGMENT_BURST = 2_000.0, 4_000.0
"""Frames of fragmented messages (RFC 6455 section 5.4) that are read per second, and at once. Further ones
are read later: a message may have any number, within the bound on its size, but each costs time."""

CONTROL_FRAMES_PER_SECOND, CONTROL_FRAME_BURST = 10.0, 20.0
"""Control frames that a peer may send per second, and at once (CVE-2019-9512 is this attack on HTTP/2)."""
