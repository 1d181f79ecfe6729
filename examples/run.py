"""Run an example: a gateway, the example's backend, and its page, until Ctrl-C.

    .venv/bin/python examples/run.py chat            # or notifications, llm_stream

The page is built with Node the first time.
"""

import argparse
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

HERE = Path(__file__).resolve().parent
BACKENDS = {
    "chat": "chat_backend",
    "notifications": "notifications_backend",
    "llm_stream": "llm_backend",
}


def build_page(example: str) -> None:
    """Build the pages of all examples, unless that of *example* is there."""
    if not (HERE / example / "dist" / "index.html").exists():
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit("npm is missing: install Node 20 or newer, which builds the page")
        if not (HERE / "node_modules").exists():
            subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=HERE, check=True)
        subprocess.run([npm, "run", "build"], cwd=HERE, check=True)


@contextmanager
def running_gateway(example: str, page: str) -> Iterator[dict[str, str]]:
    """Run a gateway with the configuration of *example* for *page*; yields the environment of its backend."""
    secret, key = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    settings = {
        "FANWAY_AUTH__SECRET": secret,
        "FANWAY_PUSH__KEYS": key,
        "FANWAY_LISTEN__PUBLIC__ALLOWED_ORIGINS": page,
    }
    fanway = Path(sys.executable).with_name("fanway")
    with subprocess.Popen(
        [str(fanway), "serve", "--config", str(HERE / example / "gateway.toml")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **settings},
    ) as gateway:
        try:
            addresses: dict[str, str] = {}
            for line in gateway.stdout or ():
                who, url, *_ = line.split()
                addresses[who] = url
                if len(addresses) == 2:
                    break
            if len(addresses) < 2:
                raise SystemExit("the gateway did not start; its output is above")
            yield {
                "GATEWAY_URL": addresses["clients"],
                "GATEWAY_PUSH_URL": addresses["backends"],
                "GATEWAY_PUSH_KEY": key,
                "GATEWAY_SECRET": secret,
            }
        finally:
            gateway.terminate()


def main() -> None:
    """Run the example that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("example", choices=BACKENDS)
    parser.add_argument("--port", type=int, default=8080, help="of the backend and the page (default: 8080)")
    options = parser.parse_args()
    build_page(options.example)
    page = f"http://127.0.0.1:{options.port}"
    with running_gateway(options.example, page) as environment:
        os.environ.update(environment)
        sys.path[:0] = [str(HERE), str(HERE / options.example)]
        print(f"{options.example}: {page}/", flush=True)
        uvicorn.run(
            f"{BACKENDS[options.example]}:create_app",
            factory=True,
            host="127.0.0.1",
            port=options.port,
            log_level="warning",
        )


if __name__ == "__main__":
    main()
