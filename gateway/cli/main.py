"""The start of the command `fanway`: signals first, because the imports of the commands take a second."""

from __future__ import annotations

import sys

from gateway.runtime.stop_signals import exit_on_stop_signals


def main() -> None:
    """Run the command that the arguments name (`gateway.cli.commands`)."""
    if sys.argv[1:2] == ["serve"]:
        exit_on_stop_signals()
    from gateway.cli.commands import run_command  # noqa: PLC0415

    run_command()
