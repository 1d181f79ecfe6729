"""npm in the folder of the TypeScript client."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "clients" / "typescript"


def npm(*arguments: str, environment: Mapping[str, str] | None = None, cwd: Path = PACKAGE) -> str:
    """Run npm, and return its output, which is the text of a failure."""
    return run("npm", *arguments, environment=environment, cwd=cwd)


def bundle(source: str, target: Path) -> None:
    """Write what a page loads for `test/browser/SOURCE`."""
    esbuild = str(PACKAGE / "node_modules" / ".bin" / "esbuild")
    options = ("--bundle", "--format=esm", "--jsx=automatic", '--define:process.env.NODE_ENV="development"')
    run(esbuild, f"test/browser/{source}", *options, f"--outfile={target}")


def run(*command: str, environment: Mapping[str, str] | None = None, cwd: Path = PACKAGE) -> str:
    """Run *command*, and return its output, which is the text of a failure."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "CI": "1", "NO_COLOR": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
