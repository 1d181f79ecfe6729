"""The TypeScript client: its own tests, and those that need a gateway."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.e2e.gateway import KEY, SECRET, gateway_process

PACKAGE = Path(__file__).parents[2] / "clients" / "typescript"

CONFIG = """
[auth]
anonymous = true

[push]
keys = ["dev"]

[limits]
commands_per_second = 5000
command_burst = 10000

[channels.default]
subscribe = "authenticated"
publish = "authenticated"
history = 1000
presence = true
join_leave = true

[channels.open]
subscribe = "anyone"
publish = "anyone"

[channels.short]
history = 2

[channels.quiet]
publish = "nobody"

[channels.doc]
subscribe = "token"
"""


def npm(*arguments: str, environment: Mapping[str, str] | None = None) -> None:
    """Run npm in the package; its output is the text of the failure."""
    done = subprocess.run(
        ["npm", *arguments],
        cwd=PACKAGE,
        env={**os.environ, "CI": "1", "NO_COLOR": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["check", "test", "size"])
def test_its_own(script: str) -> None:
    npm("run", script)


def test_beside_a_gateway(tmp_path: Path) -> None:
    with gateway_process(tmp_path, CONFIG, dev=False) as gateway:
        environment = {
            "TEST_GATEWAY_PUBLIC": f"ws://127.0.0.1:{gateway.public}/v1/ws",
            "TEST_GATEWAY_INTERNAL": f"http://127.0.0.1:{gateway.internal}",
            "TEST_GATEWAY_KEY": KEY,
            "TEST_GATEWAY_SECRET": SECRET,
        }
        npm("test", environment=environment)
