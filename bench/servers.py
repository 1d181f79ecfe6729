"""The servers that are compared: how each is started on free ports, and the arguments of `wsload` for it."""
# ruff: noqa: S603, S607 (to run programs is what a bench does)

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from child_processes import (
    START_STOP_SECONDS,
    BenchError,
    RedisServer,
    child_process,
    free_port,
    redis_server,
    wait_until_listening,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

START_GATEWAY = "from gateway.cli import main; getattr(main, 'main', main)()"
"""`gateway.cli.main` is a module; in revisions before it was one, `gateway.cli` defined the function."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: the process whose costs count, and the arguments with which `wsload` reaches it."""

    pid: int
    subscriber_arguments: Sequence[str]
    publisher_arguments: Sequence[str]
    redis: RedisServer | None = None
    """The Redis that it uses, whose costs are separate figures."""
    internal_port: int = 0

    @property
    def arguments(self) -> Sequence[str]:
        """The arguments of subscribers and publishers of this server."""
        return [*self.subscriber_arguments, *self.publisher_arguments]


Start = Callable[[], AbstractContextManager[Server]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare, with its name in the table."""

    name: str
    start: Start


def working_tree() -> Peer:
    """Return the gateway of this checkout with the memory broker."""
    return Peer("fanway", partial(fanway, ROOT))


def with_redis(workers: int = 1) -> Peer:
    """Return the gateway of this checkout with its own Redis."""

    @contextmanager
    def start() -> Iterator[Server]:
        with redis_server() as redis, fanway(ROOT, redis, workers=workers) as server:
            yield server

    return Peer("fanway-redis", start)


@contextmanager
def revision(name: str) -> Iterator[Peer]:
    """Yield the gateway of the git revision *name*, run with the dependencies of this checkout."""
    git = ["git", "-C", str(ROOT)]
    commit = _output([*git, "rev-parse", "--verify", "--short", "--end-of-options", f"{name}^{{commit}}"])
    with tempfile.TemporaryDirectory(prefix="fanway-bench-") as directory:
        # An archive instead of a worktree: it leaves nothing in .git if the bench is killed.
        archive = subprocess.run(
            [*git, "archive", commit, "gateway", "protocol"], check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True)
        yield Peer(commit, partial(fanway, Path(directory)))


def nchan() -> Peer | None:
    """Return nginx with nchan; None if it is not installed (Debian: nginx-light, libnginx-mod-nchan)."""
    nginx = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
    if nginx is None or not NCHAN_MODULE.exists():
        return None
    return Peer("nchan", partial(_nchan, nginx))


@contextmanager
def fanway(tree: Path, redis: RedisServer | None = None, *, workers: int = 1) -> Iterator[Server]:
    """Run the gateway whose source is in *tree*, with the broker of *redis* if given."""
    command = [sys.executable, "-c", START_GATEWAY, "serve", "--dev"]
    command += ["--config", str(HERE / "fanway.toml"), "--port", "0", "--internal-port", "0"]
    command += ["--workers", str(workers)] if workers > 1 else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FANWAY_")}
    environment["PYTHONPATH"] = str(tree)
    if redis is not None:
        environment |= {"FANWAY_BROKER__KIND": "redis", "FANWAY_BROKER__URL": redis.url}
    with child_process(command, cwd=tree, env=environment) as process:
        ports = _read_ports(process)
        if ports.keys() != {"clients", "backends"}:
            raise BenchError(f"the gateway in {tree} exited at once; its output is above")
        _wait_until_all_serve(ports["backends"], workers)
        yield Server(
            process.pid,
            _fanway_subscriber(ports["clients"]),
            _fanway_publisher(ports["backends"]),
            redis,
            ports["backends"],
        )


def _read_ports(process: subprocess.Popen[str]) -> dict[str, int]:
    """Return the ports that the gateway prints, by who connects there."""
    ports: dict[str, int] = {}
    for line in process.stdout or ():
        client, url, *_ = line.split()
        ports[client] = urlsplit(url).port or 0
        if len(ports) == 2:
            break
    return ports


def _wait_until_all_serve(port: int, workers: int) -> None:
    """Return once all nodes are registered: addresses are printed before the workers accept connections."""
    deadline = time.monotonic() + START_STOP_SECONDS
    while time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port)
        with suppress(OSError), closing(connection):
            connection.request("GET", "/v1/nodes", headers={"Authorization": "Bearer dev"})
            if len(json.load(connection.getresponse())["nodes"]) >= workers:
                return
        time.sleep(0.05)
    raise BenchError(f"fewer than {workers} workers serve; the output of the gateway is above")


def _fanway_subscriber(port: int) -> list[str]:
    arguments = ["--port", str(port), "--path", "/v1/ws", "--protocol", "fanway.v1.json"]
    arguments += ["--ping", '{"type":"ping"}', "--pong", '{"type":"pong"}', "--replies", "2"]
    arguments += ["--hello", '{"type":"connect","id":1}']
    return [*arguments, "--hello", '{"type":"subscribe","id":2,"channel":"bench:{c}"}']


def _fanway_publisher(port: int) -> list[str]:
    arguments = ["--publish-port", str(port), "--publish-path", "/v1/publish"]
    arguments += ["--header", "Authorization: Bearer dev", "--header", "Content-Type: application/json"]
    return [*arguments, "--body", '{"channel":"bench:{c}","data":{"text":"t@{t}@{pad}"}}']


@contextmanager
def _nchan(nginx: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="fanway-bench-") as directory:
        port = free_port()
        text = (
            (HERE / "nchan.conf")
            .read_text()
            .replace("@PORT@", str(port))
            .replace("@MODULE@", str(NCHAN_MODULE))
        )
        (Path(directory) / "nginx.conf").write_text(text)
        command = [nginx, "-p", directory, "-c", "nginx.conf", "-e", "stderr"]
        with child_process(command, cwd=Path(directory), env=dict(os.environ)) as process:
            wait_until_listening(process, port)
            yield Server(
                process.pid,
                ["--port", str(port), "--path", "/subscribe?channel={c}"],
                ["--publish-port", str(port), "--publish-path", "/publish?channel={c}"],
            )


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except subprocess.CalledProcessError as error:
        raise BenchError(error.stderr.strip()) from None
