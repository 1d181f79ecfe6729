"""The scenarios that every client library passes: what happens to a client, and all that it must do.

`docs/vectors/README.md` describes the format of the files in `docs/vectors/client`, which are made from here.
"""

from __future__ import annotations

from tests.protocol.client_scenarios import (
    channels,
    closes,
    connecting,
    heartbeats,
    publishing,
    recovery,
    tokens,
)
from tests.protocol.client_scenarios.script import Scenario

FILES: dict[str, list[Scenario]] = {
    "connecting.json": connecting.SCENARIOS,
    "closes.json": closes.SCENARIOS,
    "heartbeats.json": heartbeats.SCENARIOS,
    "tokens.json": tokens.SCENARIOS,
    "channels.json": channels.SCENARIOS,
    "recovery.json": recovery.SCENARIOS,
    "publishing.json": publishing.SCENARIOS,
}
"""The scenarios by the name of their file."""
