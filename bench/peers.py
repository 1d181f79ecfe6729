"""The servers that are compared: each started on free ports of loopback, and how `wsload` talks to it."""
# ruff: noqa: S603, S607 (to run programs is what a bench does)

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
PATIENCE = 15.0
"""Seconds that a server has to start, and to end."""


class BenchError(Exception):
    """What keeps the bench from measuring, in a line for people."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: the process whose costs count, and the arguments with which `wsload` reaches it."""

    pid: int
    arguments: Sequence[str]


Start = Callable[[], AbstractContextManager[Server]]


@dataclass(frozen=True, slots=True)
class Peer:
    """One server by its name in the table."""

    name: str
    start: Start


def working_tree() -> Peer:
    """Return the gateway of this checkout."""
    return Peer("fanway", partial(_fanway, ROOT))


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
        yield Peer(found, partial(_fanway, Path(directory)))


def nchan() -> Peer | None:
    """Return nginx with nchan; None where that is not installed (Debian: nginx-light, libnginx-mod-nchan)."""
    nginx = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
    if nginx is None or not NCHAN.exists():
        return None
    return Peer("nchan", partial(_nchan, nginx))


@contextmanager
def _fanway(tree: Path) -> Iterator[Server]:
    command = [sys.executable, "-c", "from gateway.cli import main; main()", "serve", "--dev"]
    command += ["--config", str(HERE / "fanway.toml"), "--port", "0", "--internal-port", "0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FANWAY_")}
    with _running(command, cwd=tree, env={**environment, "PYTHONPATH": str(tree)}) as process:
        told = {}
        for line in process.stdout or ():
            who, url, *_ = line.split()
            told[who] = str(urlsplit(url).port)
            if told.keys() >= {"clients", "backends"}:
                break
        else:
            raise BenchError(f"the gateway in {tree} ended at once; what it said is above")
        arguments = ["--port", told["clients"], "--path", "/v1/ws", "--protocol", "fanway.v1.json"]
        arguments += ["--ping", '{"type":"ping"}', "--pong", '{"type":"pong"}', "--replies", "2"]
        arguments += ["--hello", '{"type":"connect","id":1}']
        arguments += ["--hello", '{"type":"subscribe","id":2,"channel":"bench:{c}"}']
        arguments += ["--publish-port", told["backends"], "--publish-path", "/v1/publish"]
        arguments += ["--header", "Authorization: Bearer dev", "--header", "Content-Type: application/json"]
        arguments += ["--body", '{"channel":"bench:{c}","data":{"text":"t@{t}@{pad}"}}']
        yield Server(process.pid, arguments)


@contextmanager
def _nchan(nginx: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="fanway-bench-") as directory, _free_port() as probe:
        port = str(probe.getsockname()[1])
        probe.close()
        text = (HERE / "nchan.conf").read_text().replace("@PORT@", port).replace("@MODULE@", str(NCHAN))
        (Path(directory) / "nginx.conf").write_text(text)
        command = [nginx, "-p", directory, "-c", "nginx.conf", "-e", "stderr"]
        with _running(command, cwd=Path(directory), env=dict(os.environ)) as process:
            _until_listening(process, int(port))
            arguments = ["--port", port, "--path", "/subscribe?channel={c}"]
            arguments += ["--publish-port", port, "--publish-path", "/publish?channel={c}"]
            yield Server(process.pid, arguments)


@contextmanager
def _running(command: list[str], *, cwd: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run *command*; what it says on stderr is shown only if it does not end well."""
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            try:
                yield process
            finally:
                process.terminate()
                try:
                    status = process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    status = process.wait()
        if status:
            errors.seek(0)
            sys.stderr.write(errors.read())


def _until_listening(process: subprocess.Popen[str], port: int) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise BenchError(f"nothing listens on port {port}; what the server said is above")


def _free_port() -> socket.socket:
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    return probe


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except subprocess.CalledProcessError as error:
        raise BenchError(error.stderr.strip()) from None
