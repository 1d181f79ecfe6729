"""Run an example: a gateway, the example's backend, and its page, until Ctrl-C.

    .venv/bin/python examples/run.py chat            # or notifications, llm_stream

The page is built with Node 20 or newer.
"""

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
BACKENDS = {
    "chat": "chat_backend",
    "notifications": "notifications_backend",
    "llm_stream": "llm_backend",
}


def build_page(example: str) -> None:
    """Build the page of *example* if it changed; install what that needs, the first time."""
    built = HERE / example / "dist" / "index.html"
    sources = (HERE / example / "web", HERE / "shared", HERE.parent / "clients" / "typescript" / "src")
    newest = max(path.stat().st_mtime for folder in sources for path in folder.rglob("*"))
    if built.exists() and built.stat().st_mtime > newest:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is missing: install Node 20 or newer, which builds the page")
    wanted, installed = HERE / "package-lock.json", HERE / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < wanted.stat().st_mtime:
        subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=HERE, check=True)
    build = ["exec", "--", "vite", "build", f"{example}/web", "--config", "vite.config.ts"]
    subprocess.run([npm, *build, "--logLevel", "warn"], cwd=HERE, check=True)


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
        # Ctrl-C ends the backend, which may still publish; the gateway ends after it.
        start_new_session=True,
    ) as gateway:
        try:
            addresses: dict[str, str] = {}
            for line in gateway.stdout or ():
                match line.split():
                    case ["clients" | "backends" as who, url, *_]:
                        addresses[who] = url
                if len(addresses) == 2:
                    break
            else:
                raise SystemExit("the gateway did not start; its output is above")
            yield {
                "GATEWAY_URL": addresses["clients"],
                "GATEWAY_PUSH_URL": addresses["backends"].removesuffix("/v1/publish"),
                "GATEWAY_PUSH_KEY": key,
                "GATEWAY_SECRET": secret,
            }
        finally:
            gateway.terminate()


def end(number: int, _: object) -> None:
    """Leave every `with`, so that the gateway ends, too; uvicorn raises its signal once more at its end."""
    raise SystemExit(128 + number)


def main() -> None:
    """Run the example that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("example", choices=BACKENDS)
    parser.add_argument("--port", type=int, default=8080, help="of the backend and the page (default: 8080)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        listening = socket.create_server((HOST, options.port))
    except OSError as error:
        raise SystemExit(f"port {options.port}: {error.strerror}; choose another one with --port") from None
    build_page(options.example)
    page = f"http://{HOST}:{listening.getsockname()[1]}"
    with listening, running_gateway(options.example, page) as environment:
        os.environ.update(environment)
        sys.path[:0] = [str(HERE), str(HERE / options.example)]
        print(f"{options.example}: {page}/", flush=True)
        config = uvicorn.Config(f"{BACKENDS[options.example]}:create_app", factory=True, log_level="warning")
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
