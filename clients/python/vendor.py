"""Copy the modules of `protocol/` that the client uses into `fanway_client/_protocol`: `python vendor.py`.

The client is installed without the gateway, and both must speak the same protocol: the copy is made here, and
a test of the repository holds it equal.
"""

from __future__ import annotations

import re
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "protocol"
TARGET = Path(__file__).parent / "fanway_client" / "_protocol"
MODULES = (
    "channels",
    "client",
    "commands",
    "errors",
    "fields",
    "limits",
    "messages",
    "payload",
    "position",
    "server_messages",
)
INIT = '"""Copied from `protocol/` of the gateway by vendor.py: change it there."""\n'


def copies() -> dict[str, str]:
    """Return the text of every file, by its name."""
    return {"__init__.py": INIT} | {f"{name}.py": _copy(name) for name in MODULES}


def _copy(name: str) -> str:
    text = (SOURCE / f"{name}.py").read_text()
    return re.sub(r"^(from|import) protocol\b", r"\1 fanway_client._protocol", text, flags=re.MULTILINE)


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    for name, text in copies().items():
        (TARGET / name).write_text(text)
