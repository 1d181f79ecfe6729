"""The servers that are compared: each started on free ports of loopback, and how `wsload` talks to it."""
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

from running import PATIENCE, BenchError, Redis, free_port, redis, running, until_listening

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: the process whose costs count, and the arguments with which `wsload` reaches it."""

    pid: int
    subscribing: Sequence[str]
    publishing: Sequence[str]
    redis: Redis | None = None
    """What it keeps its messages in, whose costs are told apart."""
    internal_port: int = 0

    @property
    def arguments(self) -> Sequence[str]:
        """Subscribers and publishers both here."""
        return [*self.subscribing, *self.publishing]


Start = Callable[[], AbstractContextManager[Server]]


@dataclass(frozen=True, slots=True)
class Peer:
    """One server by its name in the table."""

    name: str
    start: Start


def working_tree() -> Peer:
    """Return the gateway of this checkout, with the broker in its memory."""
    return Peer("fanway", partial(fanway, ROOT))


def over_redis(workers: int = 1) -> Peer:
    """Return the gateway of this checkout with a Redis of its own."""

    @contextmanager
    def start() -> Iterator[Server]:
        with redis() as store, fanway(ROOT, store, workers=workers) as server:
            yield server

    return Peer("fanway-redis", start)


@contextmanager
def revision(name: str) -> Iterator[Peer]:
    """Yield the gateway of the git revision *name*, run with the dependencies of this checkout."""
    git = ["git", "-C", str(ROOT)]
    found = _output([*git, "rev-parse", "--verify", "--short", "--end-of-options", f"{name}^{{commit}}"])
    with tempfile.TemporaryDirectory(prefix="fanway-bench-") as directory:
        # An archive rather than a worktree: nothing is left in .git when the bench is killed.
        archive = subprocess.run(
            [*git, "archive", found, "gateway", "protocol"], check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True)
        yield Peer(found, partial(fanway, Path(directory)))


def nchan() -> Peer | None:
    """Return nginx with nchan; None where that is not installed (Debian: nginx-light, libnginx-mod-nchan)."""
    nginx = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
    if nginx is None or not NCHAN.exists():
        return None
    return Peer("nchan", partial(_nchan, nginx))


@contextmanager
def fanway(tree: Path, store: Redis | None = None, *, workers: int = 1) -> Iterator[Server]:
    """Run the gateway of *tree*, on *store* where there is one."""
    command = [sys.executable, "-c", "from gateway.cli import main; main()", "serve", "--dev"]
    command += ["--config", str(HERE / "fanway.toml"), "--port", "0", "--internal-port", "0"]
    command += ["--workers", str(workers)] if workers > 1 else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FANWAY_")}
    environment["PYTHONPATH"] = str(tree)
    if store is not None:
        environment |= {"FANWAY_BROKER__KIND": "redis", "FANWAY_BROKER__URL": store.url}
    with running(command, cwd=tree, env=environment) as process:
        ports = _announced(process)
        if ports.keys() != {"clients", "backends"}:
            raise BenchError(f"the gateway in {tree} ended at once; what it said is above")
        _until_all_serve(ports["backends"], workers)
        yield Server(
            process.pid,
            _subscribing(ports["clients"]),
            _publishing(ports["backends"]),
            store,
            ports["backends"],
        )


def _announced(process: subprocess.Popen[str]) -> dict[str, int]:
    told: dict[str, int] = {}
    for line in process.stdout or ():
        who, url, *_ = line.split()
        told[who] = urlsplit(url).port or 0
        if len(told) == 2:
            break
    return told


def _until_all_serve(port: int, workers: int) -> None:
    """Return once so many nodes say that they are there: the addresses are told before the workers accept."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        connection = HTTPConnection("127.0.0.1", port)
        with suppress(OSError), closing(connection):
            connection.request("GET", "/v1/nodes", headers={"Authorization": "Bearer dev"})
            if len(json.load(connection.getresponse())["nodes"]) >= workers:
                return
        time.sleep(0.05)
    raise BenchError(f"fewer than {workers} workers serve; what the gateway said is above")


def _subscribing(port: int) -> list[str]:
    arguments = ["--port", str(port), "--path", "/v1/ws", "--protocol", "fanway.v1.json"]
    arguments += ["--ping", '{"type":"ping"}', "--pong", '{"type":"pong"}', "--replies", "2"]
    arguments += ["--hello", '{"type":"connect","id":1}']
    return [*arguments, "--hello", '{"type":"subscribe","id":2,"channel":"bench:{c}"}']


def _publishing(port: int) -> list[str]:
    arguments = ["--publish-port", str(port), "--publish-path", "/v1/publish"]
    arguments += ["--header", "Authorization: Bearer dev", "--header", "Content-Type: application/json"]
    return [*arguments, "--body", '{"channel":"bench:{c}","data":{"text":"t@{t}@{pad}"}}']


@contextmanager
def _nchan(nginx: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="fanway-bench-") as directory:
        port = free_port()
        text = (HERE / "nchan.conf").read_text().replace("@PORT@", str(port)).replace("@MODULE@", str(NCHAN))
        (Path(directory) / "nginx.conf").write_text(text)
        command = [nginx, "-p", directory, "-c", "nginx.conf", "-e", "stderr"]
        with running(command, cwd=Path(directory), env=dict(os.environ)) as process:
            until_listening(process, port)
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
