"""The command line, run as a person runs it: what it prints where, and with which exit code."""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import pytest
from joserfc.util import urlsafe_b64decode
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from gateway import __version__
from gateway.access.keys import StaticKeys, secret_keys
from gateway.access.tokens import Verifier
from gateway.settings import load
from protocol.codec import JsonCodec
from protocol.messages import Connected, Message, Subscribed
from protocol.payload import payload_of
from protocol.position import MessageId

FANWAY = str(Path(sys.executable).with_name("fanway"))
SECRET = "a-secret-that-nobody-may-ever-read"
REPOSITORY_TOML = Path(__file__).parents[3] / "gateway.toml"
CODEC = JsonCodec()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def environment(**extra: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("FANWAY_")} | extra


def fanway(
    home: Path, *arguments: str, stdin: str | None = None, **extra: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FANWAY, *arguments],
        cwd=home,
        env=environment(**extra),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def unused_port() -> Iterator[int]:
    """Yield a port that nothing listens on, and nothing else can take meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


# ---------------------------------------------------------------- without a gateway


@pytest.mark.parametrize("argument", ["version", "--version"])
def test_version_prints_the_version(home: Path, argument: str) -> None:
    done = fanway(home, argument)
    assert (done.returncode, done.stdout) == (0, f"fanway {__version__}\n")


@pytest.mark.parametrize("arguments", [("-h",), ("--help",), ("token", "-h"), ("serve", "--help")])
def test_help_is_printed(home: Path, arguments: tuple[str, ...]) -> None:
    done = fanway(home, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")


def test_init_writes_a_configuration_that_is_complete(home: Path) -> None:
    done = fanway(home, "init")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "next: fanway check, then fanway serve"
    file = home / "fanway.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    checked = fanway(home, "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.startswith("fanway.toml: no faults\n")
    assert fanway(home, "token", "ann").returncode == 0
    written = load(file)
    assert {"chat", "order"} <= written.namespaces().keys()
    assert len(written.auth.secret.get_secret_value()) == 64


def test_init_makes_new_secrets_and_names_the_file_in_what_comes_next(home: Path) -> None:
    assert fanway(home, "init").returncode == 0
    done = fanway(home, "init", "other.toml")
    assert "fanway serve --config other.toml" in done.stdout
    one, other = load(home / "fanway.toml"), load(home / "other.toml")
    secrets = {each.auth.secret.get_secret_value() for each in (one, other)}
    keys = {each.push.keys[0].get_secret_value() for each in (one, other)}
    assert len(secrets | keys) == 4


@pytest.mark.parametrize("name", ["fanway.toml", "gateway.toml", "mine.toml"])
def test_init_does_not_overwrite(home: Path, name: str) -> None:
    (home / name).write_text("mine")
    done = fanway(home, "init", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"fanway: {name} exists, and is not overwritten; name another file: fanway init FILE\n"
    )
    assert (home / name).read_text() == "mine"


def test_fanway_toml_is_read_before_gateway_toml(home: Path) -> None:
    for name, port in (("gateway.toml", 9001), ("fanway.toml", 9002)):
        (home / name).write_text(f"[listen.public]\nport = {port}\n")
        summary = fanway(home, "check", "--dev").stdout.splitlines()
        assert summary[:2] == [f"{name}: no faults", f"public listener    127.0.0.1:{port}"]


def test_check_prints_every_fault_with_its_key(home: Path) -> None:
    (home / "gateway.toml").write_text(f'[auth]\nsecert = "{SECRET}"\n[channels.chat]\nhistory = "many"\n')
    done = fanway(home, "check")
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        "auth.secert",
        'channels.chat.history = "many"',
        "auth.secret",
        "push.keys",
    ]
    assert SECRET not in done.stderr


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize(
    "url",
    [
        "redis://h:abc",
        "redis://h:99999/0",
        "redis://h:6379?foo=bar",
        f"redis://u:{SECRET}/pw@localhost:6379/0",
        f"redis+sentinel://u:{SECRET}@h:x/m/0",
    ],
)
def test_a_malformed_redis_url_is_reported_in_one_line(home: Path, command: str, url: str) -> None:
    given = {"FANWAY_BROKER__KIND": "redis", "FANWAY_BROKER__URL": url, "FANWAY_PUSH__KEYS": "k"}
    done = fanway(home, command, **given, FANWAY_AUTH__SECRET=SECRET)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("broker.url = ")
    assert SECRET not in line


def test_the_package_runs_as_a_module(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "version"],
        cwd=home,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"fanway {__version__}\n")


def test_check_prints_warnings_and_succeeds(home: Path) -> None:
    given = {"FANWAY_AUTH__JWKS_URL": "https://keys.example.com/jwks.json", "FANWAY_PUSH__KEYS": "k"}
    done = fanway(home, "check", **given)
    assert done.returncode == 0
    assert done.stderr.startswith("fanway: warning: auth.jwks_url: ")
    assert done.stderr.endswith("; set auth.audience and auth.issuer\n")
    assert "no faults" in done.stdout


def test_check_summarizes_a_configuration_without_faults(home: Path) -> None:
    (home / "mine.toml").write_text('[channels.chat]\n[listen.public]\nport = 9000\n[push]\nkeys = ["k"]\n')
    done = fanway(home, "check", "--config", "mine.toml", FANWAY_AUTH__SECRET=SECRET)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mine.toml: no faults" in done.stdout
    assert "127.0.0.1:9000" in done.stdout
    assert "chat, default" in done.stdout
    assert SECRET not in done.stdout


def test_check_fails_where_the_named_file_does_not_exist(home: Path) -> None:
    done = fanway(home, "check", "--config", "none.toml")
    assert done.returncode == 1
    assert done.stderr == "none.toml: No such file or directory; name a file that can be read\n"


def test_the_gateway_toml_of_this_repository_is_valid_in_dev_mode(home: Path) -> None:
    assert fanway(home, "check", "--dev", "--config", str(REPOSITORY_TOML)).returncode == 0


async def test_token_prints_a_token_for_a_user(home: Path) -> None:
    done = fanway(
        home,
        *("token", "--user", "ann", "--ttl", "5m", "--info", '{"color": "red"}'),
        FANWAY_AUTH__SECRET=SECRET,
        FANWAY_AUTH__AUDIENCE="us",
    )
    assert (done.returncode, done.stderr) == (0, "")
    issued_at = orjson.loads(_payload(done.stdout))["iat"]
    verifier = Verifier(
        StaticKeys(secret_keys(SECRET)), audience="us", issuer=None, clock=lambda: float(issued_at)
    )
    identity = await verifier.identity(done.stdout.strip())
    assert (identity.user, identity.info) == ("ann", {"color": "red"})
    assert identity.expires_at == issued_at + 300


async def test_token_prints_a_token_for_a_channel(home: Path) -> None:
    done = fanway(home, "token", "--user", "ann", "--channel", "chat:1", FANWAY_AUTH__SECRET=SECRET)
    issued_at = orjson.loads(_payload(done.stdout))["iat"]
    verifier = Verifier(
        StaticKeys(secret_keys(SECRET)), audience=None, issuer=None, clock=lambda: float(issued_at)
    )
    opened = await verifier.channel_token(done.stdout.strip())
    assert (opened.user, opened.channel, opened.expires_at) == ("ann", "chat:1", issued_at + 3600)


def _payload(token: str) -> bytes:
    return urlsafe_b64decode(token.split(".")[1].encode())


def test_token_takes_the_user_as_an_argument_or_an_option(home: Path) -> None:
    ways = (("ann",), ("--user", "ann"))
    printed = [fanway(home, "token", *way, FANWAY_AUTH__SECRET=SECRET).stdout for way in ways]
    assert [orjson.loads(_payload(token))["sub"] for token in printed] == ["ann", "ann"]


TOKEN_FAULTS = [
    ((), SECRET, "name one user: fanway token USER"),
    (("ann", "--user", "ben"), SECRET, "name one user: fanway token USER"),
    (("--user", "ann"), "", "auth.secret is missing"),
    (("--user", "ann", "--ttl", "soon"), SECRET, "--ttl 'soon': not a duration; write \"250ms\""),
    (("--user", "ann", "--ttl", "25h"), SECRET, "--ttl is 90000 s, more than auth.max_ttl allows"),
    (("--user", "ann", "--ttl", "0s"), SECRET, "expired"),
    (("--user", "ann", "--info", "{"), SECRET, "--info is no JSON"),
    (("--user", ""), SECRET, "claim sub"),
    (("--user", "ann", "--channel", "a b"), SECRET, "claim channel"),
    (("--user", "ann"), "short", "auth.secret has 5 bytes"),
]


@pytest.mark.parametrize(("arguments", "secret", "line"), TOKEN_FAULTS)
def test_token_reports_a_fault_in_one_line(
    home: Path, arguments: tuple[str, ...], secret: str, line: str
) -> None:
    done = fanway(home, "token", *arguments, FANWAY_AUTH__SECRET=secret)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fanway: ")
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1


SERVE_FAULTS = [
    ((), "auth.secret: missing"),
    (("--dev", "--host", "0.0.0.0"), 'listen.public.host = "0.0.0.0": --dev lets everybody in'),
    (
        ("--dev", "--internal-host", "192.0.2.1"),
        'listen.internal.host = "192.0.2.1": --dev lets everybody in',
    ),
    (("--dev", "--port", "70000"), "listen.public.port = 70000: too large"),
    (("--dev", "--internal-port", "8000"), "listen.internal.port = 8000: the public listener has it too"),
    (("--dev", "--workers", "0"), "node.workers = 0: too small"),
    (("--dev", "--workers", "2"), "node.workers = 2: several workers need a broker"),
    (("--dev", "--node", "a b"), 'node.name = "a b": not a node\'s name'),
    (("--dev", "--redis", "http://x"), 'broker.url = "http://x": not a Redis URL'),
]


@pytest.mark.parametrize(("arguments", "line"), SERVE_FAULTS)
def test_serve_reports_a_fault_without_a_traceback(home: Path, arguments: tuple[str, ...], line: str) -> None:
    done = fanway(home, "serve", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert line in done.stderr
    assert "Traceback" not in done.stderr


UNREACHABLE = [
    (("publish", "a", "1"), "--internal-url", "http"),
    (("nodes",), "--internal-url", "http"),
    (("stats",), "--internal-url", "http"),
    (("listen", "a"), "--url", "ws"),
]


@pytest.mark.parametrize(("arguments", "option", "scheme"), UNREACHABLE)
def test_without_a_gateway_a_command_prints_one_line(
    home: Path, arguments: tuple[str, ...], option: str, scheme: str, unused_port: int
) -> None:
    url = f"{scheme}://127.0.0.1:{unused_port}"
    done = fanway(home, *arguments, option, url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"fanway: no gateway at {url}")
    assert done.stderr.endswith("is it running (fanway serve)?\n")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("command", "listener"), [(("nodes",), "INTERNAL"), (("listen", "a"), "PUBLIC")])
def test_the_address_of_the_gateway_comes_from_the_settings(
    home: Path, command: tuple[str, ...], listener: str, unused_port: int
) -> None:
    extra = {
        f"FANWAY_LISTEN__{listener}__PORT": str(unused_port),
        f"FANWAY_LISTEN__{listener}__HOST": "0.0.0.0",
    }
    assert f"://127.0.0.1:{unused_port}" in fanway(home, *command, **extra).stderr


@pytest.mark.parametrize("arguments", [("publish", "a", "hello"), ("publish", "a", "-")])
def test_publish_takes_json_only(home: Path, arguments: tuple[str, ...]) -> None:
    done = fanway(home, *arguments, stdin="hello")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fanway: JSON is no JSON")


# ---------------------------------------------------------------- with a gateway


class InternalListener(ThreadingHTTPServer):
    """An internal listener that gives one answer to every request, and records the requests."""

    def __init__(self, status: int, answer: object) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.answer = status, answer
        self.requests: list[tuple[str, str | None, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: InternalListener

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(
            (
                f"{self.command} {self.path}",
                self.headers["Authorization"],
                orjson.loads(body) if body else None,
            )
        )
        answer = orjson.dumps(self.server.answer)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Write no log."""


@contextmanager
def answer_with(status: int, answer: object) -> Iterator[InternalListener]:
    with InternalListener(status, answer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_publish_posts_to_the_push_api(home: Path) -> None:
    answer = {"channel": "chat:1", "message": "1-u", "replayed": False}
    with answer_with(200, answer) as server:
        done = fanway(
            home, "publish", "chat:1", '{"n": [1, 2.5]}', "--internal-url", server.url, "--key", "k"
        )
        piped = fanway(home, "publish", "chat:1", "-", stdin="[1]\n", FANWAY_INTERNAL_URL=server.url)
    assert (done.returncode, orjson.loads(done.stdout), done.stderr) == (0, answer, "")
    assert len(done.stdout.splitlines()) == 1
    assert piped.returncode == 0
    assert server.requests == [
        ("POST /v1/publish", "Bearer k", {"channel": "chat:1", "data": {"n": [1, 2.5]}}),
        ("POST /v1/publish", "Bearer dev", {"channel": "chat:1", "data": [1]}),
    ]


@pytest.mark.parametrize("command", ["nodes", "stats"])
def test_nodes_and_stats_print_the_answer(home: Path, command: str) -> None:
    answer = {"nodes": [{"name": "n1"}]}
    with answer_with(200, answer) as server:
        done = fanway(home, command, FANWAY_INTERNAL_URL=server.url, FANWAY_PUSH__KEYS="first,second")
    assert (done.returncode, orjson.loads(done.stdout)) == (0, answer)
    assert server.requests == [(f"GET /v1/{command}", "Bearer first", None)]


REFUSALS = [
    (401, {"error": {"code": "unauthorized", "message": "no such key"}}, "unauthorized: no such key"),
    (503, "busy", "HTTP 503"),
    (404, [], "HTTP 404"),
]


@pytest.mark.parametrize(("status", "answer", "line"), REFUSALS)
def test_a_refusal_is_reported_in_one_line(home: Path, status: int, answer: object, line: str) -> None:
    with answer_with(status, answer) as server:
        done = fanway(home, "stats", "--internal-url", server.url)
    assert (done.returncode, done.stderr) == (1, f"fanway: the gateway rejected it: {line}\n")


def test_listen_prints_messages_as_lines_of_json(home: Path) -> None:
    tokens: list[str] = []

    def script(connection: ServerConnection) -> None:
        connect = orjson.loads(connection.recv())
        tokens.append(connect["token"])
        made = Subscribed("chat:1", MessageId(1, "u"))
        for message in (
            Connected(1, "c1", "", "n1", 25.0, subs={"chat:1": made}),
            Message("chat:1", payload_of({"text": "naïve\n"}), MessageId(2, "u")),
        ):
            connection.send(CODEC.encode(message), text=True)
        connection.close(4005, "enough")

    with serve(script, "127.0.0.1", 0, subprotocols=[Subprotocol(CODEC.subprotocol)]) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        done = fanway(home, "listen", "chat:1", "--url", url, FANWAY_AUTH__SECRET=SECRET)
        given = fanway(home, "listen", "chat:1", "--url", url, FANWAY_TOKEN="mine")
        server.shutdown()
        thread.join()
    assert done.returncode == 1
    assert [orjson.loads(line) for line in done.stdout.splitlines()] == [
        {"type": "message", "channel": "chat:1", "message": "2-u", "data": {"text": "naïve\n"}}
    ]
    assert done.stderr.splitlines() == [
        "fanway: listening as connection c1 on node n1",
        "fanway: the gateway closed with 4005: enough",
    ]
    assert orjson.loads(_payload(tokens[0]))["sub"] == "fanway-listen"
    assert (given.returncode, tokens[1]) == (1, "mine")


def test_listen_makes_itself_tokens_for_channels_that_want_them(home: Path) -> None:
    subs: list[dict[str, dict[str, str]]] = []

    def script(connection: ServerConnection) -> None:
        subs.append(orjson.loads(connection.recv())["subs"])
        connection.close(4005, "enough")

    (home / "gateway.toml").write_text('[channels]\nstrict = true\n[channels.doc]\nsubscribe = "token"\n')
    with serve(script, "127.0.0.1", 0, subprotocols=[Subprotocol(CODEC.subprotocol)]) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        fanway(home, "listen", "doc:7", "news", "un:known", "--url", url, FANWAY_AUTH__SECRET=SECRET)
        server.shutdown()
        thread.join()
    (asked,) = subs
    claims = orjson.loads(_payload(asked["doc:7"]["token"]))
    assert (claims["sub"], claims["channel"]) == ("fanway-listen", "doc:7")
    assert (asked["news"], asked["un:known"]) == ({}, {})


def test_listen_ends_without_output_when_interrupted(home: Path) -> None:
    def script(connection: ServerConnection) -> None:
        connection.recv()
        made = Connected(1, "c1", "", "n1", 25.0, subs={"a": Subscribed("a")})
        connection.send(CODEC.encode(made), text=True)
        for _ in connection:
            pass

    with serve(script, "127.0.0.1", 0, subprotocols=[Subprotocol(CODEC.subprotocol)]) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        command = [FANWAY, "listen", "a", "--url", f"ws://127.0.0.1:{server.socket.getsockname()[1]}"]
        with subprocess.Popen(
            command, cwd=home, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "fanway: listening as connection c1 on node n1\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=30) == ("", "")
        server.shutdown()
        thread.join()
    assert process.returncode == 130
