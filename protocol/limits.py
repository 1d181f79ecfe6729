"""The numbers that protect a gateway and its clients; settings may lower most of them."""

from __future__ import annotations

CHANNEL_NAME = 128
"""Characters in a channel's name."""

COMMAND_ID = 2**53 - 1
"""The largest command id: what a JavaScript number holds exactly (ECMA-262, Number.MAX_SAFE_INTEGER)."""

DEPTH = 64
"""Levels of arrays and maps in a message from a client; orjson encodes 254, a phone's parser often fewer."""

SERVER_MESSAGE_DEPTH = DEPTH + 4
"""Levels in what a server says: `data` is one level down in a `publish`, and up to five in a `connected`."""

MESSAGE_SIZE = 64 * 1024
"""Bytes in one message from a client, before the link closes with 1009."""

IDEMPOTENCY_KEY = 128
"""Characters in the `key` of a publish."""

TOKEN_SIZE = 8 * 1024
"""Characters in a token; longer ones are refused before any cryptography."""

TAGS = 32
"""Entries in the `tags` of a message; keys and values have at most `TAG_SIZE` characters."""

TAG_SIZE = 256

SUBSCRIPTIONS_AT_CONNECT = 1_000
"""Entries in the `subs` of a `connect`."""

HISTORY_LIMIT = 1_000
"""Messages in one `history` reply."""

INT_MIN, INT_MAX = -(2**63), 2**64 - 1
"""Integers that both codecs carry exactly (MessagePack int 64 and uint 64)."""

CONNECT_TIMEOUT = 5.0
"""Seconds until the first command must be there (PROTOCOL, close code 4001)."""

FRAGMENTS = 64
"""Frames that one message may be split into; a flood of empty ones otherwise never meets the size limit."""

PINGS_PER_SECOND, PING_BURST = 10.0, 20.0
"""Control frames a peer may make us answer (CVE-2019-9512 is the same attack on HTTP/2)."""
