"""What `fanway init` writes: a small configuration with secrets of its own."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

SECRET_BYTES = 32
"""Of `auth.secret` and of the push key, as docs/security.md#tokens asks for."""

_TEMPLATE = """\
# The configuration of a Fanway gateway, made by `fanway init`. Every key is in docs/configuration.md;
# `fanway check` lists what is wrong. This file has secrets: keep it out of version control.

[auth]
# Signs the tokens of your users; your backend, which makes the tokens, has the same secret.
# In production, better in the environment: FANWAY_AUTH__SECRET.
secret = "{secret}"

[push]
# Your backends send one of these as `Authorization: Bearer …`. In the environment: FANWAY_PUSH__KEYS.
keys = ["{key}"]

# Rules of channels, a table for each namespace: the part of a channel's name before the colon. For other
# channels, clients with a token may subscribe, only backends publish, and nothing is stored.

[channels.chat]               # chat:lobby, chat:42, …
subscribe = "authenticated"   # any client with a token
publish = "subscribers"
history = 100                 # messages, for clients that reconnect
history_ttl = "1h"
presence = true               # who is in the channel

[channels.order]              # order:1871, …
subscribe = "token"           # a client with a token for this channel
history = 20
"""


def new_configuration() -> str:
    """Return the text of a configuration with a new secret and a new push key."""
    return _TEMPLATE.format(secret=secrets.token_hex(SECRET_BYTES), key=secrets.token_hex(SECRET_BYTES))


def write_new_file(path: Path, text: str) -> None:
    """Write *text* to a new file that only its owner may read; `OSError` where *path* exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
