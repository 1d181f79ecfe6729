"""Where settings come from, what is refused and in which words, and that gateway.toml tells the truth."""

import itertools
import json
import os
import re
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import BaseModel, SecretStr

from gateway.settings import ConfigError, Settings, load
from gateway.settings.faults import keys
from gateway.settings.units import Address, redacted
from tests.broker.redis_tls import CertificateAuthority

SECRET = "a-secret-that-nobody-may-ever-read-in-a-log"
OURS = Path(__file__).parents[3] / "gateway.toml"
KEYS: dict[str, object] = {"auth.secret": SECRET, "push.keys": [SECRET]}
PEM = f"-----BEGIN PUBLIC KEY-----\\n{SECRET}\\n-----END PUBLIC KEY-----"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("FANWAY_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.toml"


def faults_of(
    file: Path, text: str, *, dev: bool = False, flags: dict[str, object] | None = None
) -> list[str]:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, dev=dev, flags=flags)
    assert SECRET not in str(caught.value) + repr(caught.value) + repr(caught.value.faults)
    return [str(fault) for fault in caught.value.faults]


def loaded(file: Path, text: str, *, dev: bool = False, flags: dict[str, object] | None = None) -> Settings:
    file.write_text(text)
    return load(file, dev=dev, flags=KEYS if flags is None else {**KEYS, **flags})


# ---------------------------------------------------------------- faults

NO_URL = (
    'not a Redis URL; write "redis://host:6379", rediss://, unix:// or redis+sentinel://host:26379/primary'
)

ONE_FAULT = [
    ('[auth]\nsecert = "x"', "auth.secert: unknown key; did you mean auth.secret?"),
    ("[outbocks]\nsize = 1", "outbocks: unknown key; did you mean outbox?"),
    ("[zzz]", "zzz: unknown key; gateway.toml lists every key"),
    ("[outbox]\nzzz = 1", "outbox.zzz: unknown key; gateway.toml lists every key"),
    ("[listen]\nport = 1", "listen.port: unknown key; did you mean listen.public.port?"),
    ("[listen.publik]\nport = 1", "listen.publik: unknown key; did you mean listen.public?"),
    ("[outbox]\nstrikes = 1", "outbox.strikes: unknown key; did you mean limits.strikes?"),
    ("[limits.costs]\npublsh = 1", "limits.costs.publsh: unknown key; did you mean limits.costs.publish?"),
    ("[channels]\nhistory = 10", "channels.history: unknown key; did you mean channels.default.history?"),
    ("[channels]\nstrickt = true", "channels.strickt: unknown key; did you mean channels.strict?"),
    (
        "[channels.chat]\nhistroy = 10",
        "channels.chat.histroy: unknown key; did you mean channels.chat.history?",
    ),
    ("dev = true", "dev: unknown key; gateway.toml lists every key"),
    ("outbox = 5", "outbox: not a table; write [outbox], and its keys below it"),
    (
        "[channels]\ndefault = 5",
        "channels.default: not a table; write [channels.default], and its keys below it",
    ),
    (
        '[channels."a:b"]\nhistory = 1',
        'channels."a:b": not a namespace\'s name; use up to 64 of A-Z a-z 0-9 _ . ~ -, no colon',
    ),
    (
        "[channels.chat]\nhistory = -1",
        "channels.chat.history = -1: too small; give at least 0",
    ),
    (
        '[channels.chat]\nhistory = "many"',
        'channels.chat.history = "many": not a whole number; write a whole number',
    ),
    (
        "[channels.chat]\nhistory = 1.5",
        "channels.chat.history = 1.5: not a whole number; write a whole number",
    ),
    (
        "[channels.chat]\nhistory = true",
        "channels.chat.history = true: not a whole number; write a whole number",
    ),
    (
        "[channels.chat]\npresence = 7",
        "channels.chat.presence = 7: neither true nor false; write true or false",
    ),
    (
        '[channels.chat]\nsubscribe = "all"',
        (
            'channels.chat.subscribe = "all": not one of the choices; '
            'choose "anyone", "authenticated", "token" or "nobody"'
        ),
    ),
    (
        '[channels.chat]\nhistory_ttl = "soon"',
        (
            'channels.chat.history_ttl = "soon": not a duration; write "250ms", "10s", "5m", "1h30m" '
            "or a number of seconds"
        ),
    ),
    ("[heartbeat]\ngrace = 0", "heartbeat.grace = 0: too small; give more than 0"),
    (
        '[outbox]\nsize = "1 potato"',
        'outbox.size = "1 potato": not a size; write "16KiB", "1MiB", "1GiB" or a number of bytes',
    ),
    ("[listen.public]\nlisteners = 1000", "listen.public.listeners = 1000: too large; give at most 64"),
    ("[limits]\ncommands_per_second = 0", "limits.commands_per_second = 0: too small; give more than 0"),
    ("[limits]\ncommands_per_second = inf", "limits.commands_per_second = inf: not a number; write a number"),
    (
        "[limits]\ncommands_per_second = true",
        "limits.commands_per_second = true: not a number; write a number",
    ),
    ('[limits]\ncommands_per_second = "x"', 'limits.commands_per_second = "x": not a number; write a number'),
    ("[listen.public]\nport = 65536", "listen.public.port = 65536: too large; give at most 65535"),
    ("[listen.public]\nhost = 7", "listen.public.host = 7: not text; write it between quotes"),
    ('[listen.public]\nhost = ""', 'listen.public.host = "": empty; write at least one character'),
    (
        '[listen.public]\nallowed_origins = ["https://app.example.com/"]',
        (
            'listen.public.allowed_origins = "https://app.example.com/": not an origin; '
            'write "https://app.example.com", without a path, or "*" alone for any'
        ),
    ),
    (
        "[listen.public]\nallowed_origins = 7",
        'listen.public.allowed_origins = 7: not a list; write ["a", "b"]',
    ),
    (
        '[listen.public]\nallowed_origins = "[oops"',
        'listen.public.allowed_origins = "[oops": not a JSON list; write ["a", "b"], or a,b',
    ),
    (
        '[listen.public]\ntrusted_proxies = ["*"]',
        (
            'listen.public.trusted_proxies = "*": not a network; '
            'write "10.0.0.0/8", with no bits after the prefix, or "192.0.2.7"'
        ),
    ),
    (
        "[listen.internal]\nport = 8000",
        "listen.internal.port = 8000: the public listener has it too; choose another port",
    ),
    ('[node]\nname = "a b"', 'node.name = "a b": not a node\'s name; use up to 64 of A-Z a-z 0-9 _ . ~ -'),
    (
        "[node]\nworkers = 2",
        (
            "node.workers = 2: several workers need a broker between them; "
            'set broker.kind = "redis", or 1 worker'
        ),
    ),
    (
        '[node]\nworkers = 1000\n[broker]\nkind = "redis"\nurl = "redis://h"',
        (
            "node.workers = 1000: more processes than a machine has cores for; "
            "give at most 256, and as many as there are cores"
        ),
    ),
    (
        f'[broker]\nkind = "redis"\nurls = ["redis://h", "redis://i", "redis://u:{SECRET}@h:6379/0"]',
        'broker.urls = "redis://h:6379": named twice; name every server once',
    ),
    (
        "[outbox]\nsize = 100000",
        "outbox.size = 100000: holds fewer than two messages; give at least 131072",
    ),
    (
        '[outbox]\nlow_water = "64KiB"',
        "outbox.low_water = 65536: not below outbox.high_water; give less than 65536",
    ),
    (
        '[outbox]\nhigh_water = "2MiB"',
        "outbox.high_water = 2097152: more than outbox.size; give at most 1048576",
    ),
    (
        "[limits.costs]\nhistory = 201",
        (
            "limits.costs.history = 201: more than limits.command_burst, so that nobody could ever pay; "
            "give at most 200"
        ),
    ),
    ('[drain]\nwindow = "31s"', "drain.window = 31: longer than drain.timeout; give at most 30"),
    (
        '[broker]\nkind = "redis"',
        'broker.url: missing: kind is redis; set broker.url = "redis://host:6379", or use --redis URL',
    ),
    (
        '[broker]\nurl = "redis://h"',
        'broker.url: broker.kind is memory, which has no URL; set broker.kind = "redis", or remove the URL',
    ),
    (
        f'[broker]\nkind = "redis"\nurl = "http://u:{SECRET}@h/?p={SECRET}"',
        f'broker.url = "http://h": {NO_URL}',
    ),
    (
        f'[broker]\nkind = "redis"\nurls = ["{SECRET}"]',
        f'broker.urls = "***": {NO_URL}',
    ),
    (
        '[broker]\nkind = "redis"\nurl = "redis://h"\nurls = ["redis://i"]',
        "broker.urls: broker.url is set as well; keep one of them",
    ),
    (
        f'[broker]\nkind = "redis"\nurl = "redis+sentinel://u:{SECRET}@h:26379"',
        (
            'broker.url = "redis+sentinel://h:26379": does not name the primary that its sentinels watch; '
            'write "redis+sentinel://host:26379,host2:26379/mymaster"'
        ),
    ),
    (
        '[broker]\nkind = "redis"\ncluster = true\nurls = ["redis://h", "redis://i/1"]',
        'broker.urls = "redis://i": names database 1, and a Cluster has 0 alone; leave it out',
    ),
    (
        '[broker]\nkind = "redis"\ncluster = true\nurl = "unix:///run/redis.sock"',
        'broker.url = "unix://": no node of a Cluster; write "redis://host:6379" or rediss://',
    ),
    (
        '[broker]\nprefix = "a:b"',
        'broker.prefix = "a:b": not a prefix of keys; use 1 to 64 of A-Z a-z 0-9 _ . -',
    ),
    (
        f'[broker]\nkind = "redis"\nurl = "rediss://h"\ntls_ca_file = "{__file__}"',
        (
            f'broker.tls_ca_file = "{__file__[:80]}": no certificates can be read from it '
            "(not PEM); name a file in PEM"
        ),
    ),
    (
        f'[broker]\nkind = "redis"\nurl = "rediss://h"\ntls_cert_file = "{__file__}"',
        (
            f'broker.tls_cert_file = "{__file__[:80]}": no certificate with its key can be read '
            "(not PEM); name files in PEM that belong together, the key without a password"
        ),
    ),
    (
        f'[broker]\nkind = "redis"\nurl = "rediss://h"\ntls_key_file = "{__file__}"',
        "broker.tls_key_file: broker.tls_cert_file is missing; set both",
    ),
    ("[broker]\ncluster = true", 'broker.cluster = true: broker.kind is memory; set broker.kind = "redis"'),
    (
        '[broker]\nkind = "redis"\nurl = "rediss://h"\ntls_ca_file = "nowhere.pem"',
        'broker.tls_ca_file = "nowhere.pem": there is no such file; name a file in PEM',
    ),
    (
        f'[broker]\nkind = "redis"\nurl = "redis://h"\ntls_key_file = "{__file__}"',
        f'broker.tls_key_file = "{__file__[:80]}": no connection is encrypted; write rediss:// in broker.url',
    ),
    (
        '[broker]\nbeat = "6s"',
        (
            "broker.beat = 6: leaves a lease no second chance; give at most half of broker.lease, 5; "
            "0 for a third of it"
        ),
    ),
    ("[broker]\npassword = 7", "broker.password = ***: not text; write it between quotes"),
]


@pytest.mark.parametrize(("text", "line"), ONE_FAULT)
def test_a_fault_names_key_value_problem_and_remedy(file: Path, text: str, line: str) -> None:
    assert faults_of(file, text, flags=KEYS) == [line]


NO_PORT = "not a host with a port from 1 to 65535; write host or host:port, and an IPv6 address as [::1]"
NO_DATABASE = "what follows the last / is not a database's number; write a number, or leave it out"
NOT_HERE = "is not to be set here; leave it out; docs/configuration.md has what is"
ESCAPE = "escape it where it belongs to a password: / is %2F, ? is %3F, # is %23, @ is %40, a blank is %20"

URL_FAULTS = [
    ("redis://h:abc", "redis://h:***", NO_PORT),
    (f"redis://:{SECRET}", "redis://:***", "a host is missing; write host or host:port"),
    (f"redis://u:{SECRET}", "redis://u:***", NO_PORT),
    ("redis://h:99999/0", "redis://h:99999", NO_PORT),
    ("redis://h:0", "redis://h:0", NO_PORT),
    ("redis://h:", "redis://h:***", NO_PORT),
    ("redis://[::g]:1", "redis://[::g]:1", "what is in brackets is not an IPv6 address; write [::1]:6379"),
    ("redis://[::1/0", "redis://[::1", NO_PORT),
    ("redis://", "redis://", "a host is missing; write host or host:port"),
    ("redis://a,b", "redis://a,b", "names several hosts; list a URL for each in broker.urls"),
    (f"redis://u:{SECRET}/pw@h:6379/0", "***", f"has an @ after a / or ?; {ESCAPE}"),
    (f"redis://u:{SECRET}#pw@h:6379/0", "***", f"has a #, a blank or a control character; {ESCAPE}"),
    ("redis://h/0 ", "redis://h", f"has a #, a blank or a control character; {ESCAPE}"),
    ("redis://h/notadb", "redis://h", NO_DATABASE),
    ("redis://h/-1", "redis://h", NO_DATABASE),
    ("redis://h/0/1", "redis://h", NO_DATABASE),
    ("redis://h/0/", "redis://h", NO_DATABASE),
    ("redis://h/1?db=1", "redis://h", "has a database both in its path and as ?db; keep one of them"),
    ("redis://h?db=one", "redis://h", "?db has a value that it may not have; write a database's number"),
    ("redis://h:6379?foo=bar", "redis://h:6379", f"?foo {NOT_HERE}"),
    (f"redis://h?{SECRET}", "redis://h", f"an argument {NOT_HERE}"),
    ("redis://h?decode_responses=true", "redis://h", f"?decode_responses {NOT_HERE}"),
    ("redis://h?protocol=3", "redis://h", f"?protocol {NOT_HERE}"),
    ("redis://h?max_connections=3", "redis://h", f"?max_connections {NOT_HERE}"),
    ("redis://h?socket_timeout=1", "redis://h", f"?socket_timeout {NOT_HERE}"),
    (f"redis://h?password={SECRET}", "redis://h", f"?password {NOT_HERE}"),
    (
        "redis://h?ssl_ca_certs=ca.pem",
        "redis://h",
        "?ssl_ca_certs is for encrypted connections; write rediss://, or leave it out",
    ),
    (
        "rediss://h?ssl_cert_reqs=maybe",
        "rediss://h",
        "?ssl_cert_reqs has a value that it may not have; write none, optional or required",
    ),
    (
        "rediss://h?ssl_ciphers=&ssl_ciphers=a",
        "rediss://h",
        "?ssl_ciphers has a value that it may not have; write one, or leave it out",
    ),
    (
        f"redis://h?sentinel_password={SECRET}",
        "redis://h",
        "?sentinel_password is for sentinels; write redis+sentinel://, or leave it out",
    ),
    ("redis+sentinel://h:1,,h2/m", "redis+sentinel://h:1,,h2", "a host is missing; write host or host:port"),
    (f"redis+sentinel://u:{SECRET}@h:x/m/0", "redis+sentinel://h:***", NO_PORT),
    ("redis+sentinel:///m", "redis+sentinel://", "a host is missing; write host or host:port"),
    ("redis+sentinel://h/m/x", "redis+sentinel://h", NO_DATABASE),
    ("redis+sentinel://h/m/0/1", "redis+sentinel://h", NO_DATABASE),
    (
        "unix://run/redis.sock",
        "unix://run",
        'does not name a socket\'s absolute path; write "unix:///run/redis.sock"',
    ),
]


@pytest.mark.parametrize(("url", "shown", "text"), URL_FAULTS)
def test_nothing_in_a_url_is_guessed(file: Path, url: str, shown: str, text: str) -> None:
    flags = {**KEYS, "broker.kind": "redis", "broker.url": url}
    assert faults_of(file, "", flags=flags) == [f'broker.url = "{shown}": {text}']


GOOD_URLS = [
    "redis://h",
    "redis://h/",
    "REDIS://H:1/0",
    "redis://[::1]:6379/3",
    "redis://h?db=3",
    "redis://user:p%2Fw%40@my_host.example:6379/15",
    "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=no&ssl_min_version=772&ssl_ciphers=HIGH",
    "unix:///run/redis.sock",
    "unix://u:p@/run/redis.sock?db=2",
    "redis+sentinel://:p@h,i:1/mymaster/2?sentinel_username=u&sentinel_password=p%40",
    "rediss+sentinel://h/m?ssl_ca_path=/etc/ssl&db=1",
]


@pytest.mark.parametrize("url", GOOD_URLS)
def test_a_url_that_can_be_meant(file: Path, url: str) -> None:
    assert loaded(file, "", flags={"broker.kind": "redis", "broker.url": url}).broker.addresses() == (url,)


@pytest.mark.parametrize("url", ["https://[x", "https://h:abc/keys", "https://h:99999/"])
def test_keys_at_what_is_no_url(file: Path, url: str) -> None:
    (line,) = faults_of(file, "", flags={"auth.jwks_url": url, "push.keys": ["k"]})
    assert line.endswith("not a URL; write https://host/path")


def test_a_certificate_and_its_key(file: Path, tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    certificate, key = authority.issue("gateway")
    _, another = authority.issue("another")
    flags = {"broker.kind": "redis", "broker.url": "rediss://h"}
    flags |= {"broker.tls_ca_file": str(authority.certificate), "broker.tls_cert_file": str(certificate)}
    assert loaded(file, "", flags={**flags, "broker.tls_key_file": str(key)}).broker.tls_key_file == str(key)
    (line,) = faults_of(file, "", flags={**KEYS, **flags, "broker.tls_key_file": str(another)})
    assert line.startswith("broker.tls_cert_file")
    assert "(key values mismatch)" in line


KEY_FAULTS = [
    (
        "",
        [
            (
                "auth.secret: missing: no token could be verified; set auth.secret (FANWAY_AUTH__SECRET), "
                "auth.public_key, auth.public_key_file or auth.jwks_url; or auth.anonymous = true; "
                "or try it with --dev"
            ),
            (
                'push.keys: missing: no backend could push; set push.keys = ["…"] (FANWAY_PUSH__KEYS), '
                "or try it with --dev"
            ),
        ],
    ),
    (
        (
            f'auth.secret = "{SECRET}"\nauth.public_key = "{PEM}"\n'
            'auth.jwks_url = "https://h/"\npush.keys = ["k"]'
        ),
        [
            "auth.public_key: auth.secret is set as well; keep one of them",
            "auth.jwks_url: auth.secret is set as well; keep one of them",
        ],
    ),
    (
        f'auth.secret = "{SECRET}"\nauth.algorithm = "ES256"\npush.keys = ["k"]',
        ["auth.secret: serves HS256, HS384, HS512, not ES256: leave auth.algorithm out"],
    ),
    (
        f'auth.public_key = "{PEM}"\nauth.algorithm = "HS256"\npush.keys = ["k"]',
        ["auth.public_key: no legible key (ValueError)"],
    ),
    (
        'auth.secret = "short"\npush.keys = ["k"]',
        ["auth.secret: has 5 bytes, expected at least 16: make one with `openssl rand -hex 32`"],
    ),
    (
        'auth.public_key_file = "/none"\npush.keys = ["k"]',
        ["auth.public_key_file: '/none': [Errno 2] No such file or directory: '/none'"],
    ),
    (
        'auth.jwks_url = "keys.example.com"\npush.keys = ["k"]',
        ['auth.jwks_url = "***": not a URL; write https://host/path'],
    ),
    (
        f'auth.secret = ["{SECRET}"]\npush.keys = ["k"]',
        ["auth.secret: not text; write it between quotes"],
    ),
    (
        f'auth.anonymous = true\npush.keys = ["{SECRET}", 7, ""]',
        [
            "push.keys = ***: not text; write it between quotes",
            "push.keys = ***: empty; write at least one character",
        ],
    ),
    (f'auth.anonymous = true\npush = "{SECRET}"', ["push: not a table; write [push], and its keys below it"]),
]


@pytest.mark.parametrize(("text", "lines"), KEY_FAULTS)
def test_faults_of_keys_show_no_key(file: Path, text: str, lines: list[str]) -> None:
    assert faults_of(file, text) == lines


def test_every_fault_is_told_at_once(file: Path) -> None:
    text = "[outbox]\nsiz = 1\nlow_water = 9000000\n[heartbeat]\ngrace = 0\n[push]\nkeys = []"
    told = [line.partition(":")[0] for line in faults_of(file, text)]
    assert told == [
        "heartbeat.grace = 0",
        "outbox.siz",
        "auth.secret",
        "push.keys",
        "outbox.low_water = 9000000",
    ]


def test_a_line_stays_a_line_whatever_it_quotes(file: Path) -> None:
    line = "x" * 100 + "\\n\\u001b"
    (told,) = faults_of(file, f'node.name = "\\n{line}"\n', flags=KEYS)
    assert told.startswith('node.name = "\\nxxx')
    assert told.isprintable()
    assert "…" in told


UNREADABLE = [
    (b"[auth\n", r"not TOML: .*line 1.*; see https://toml.io"),
    (b"\xff\xfe", "not UTF-8; save it as UTF-8"),
]


@pytest.mark.parametrize(("content", "problem"), UNREADABLE)
def test_a_file_that_is_not_toml(file: Path, content: bytes, problem: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^{file}: {problem}$"):
        load(file)


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(
        ConfigError, match=f"^{file}: No such file or directory; name a file that can be read$"
    ):
        load(file)


# ---------------------------------------------------------------- where a value comes from


def test_flags_over_environment_over_file_over_defaults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANWAY_LISTEN__PUBLIC__PORT", "2")
    monkeypatch.setenv("FANWAY_LISTEN__INTERNAL__PORT", "2")
    text = 'listen.public = {port = 1, backlog = 1}\nlisten.internal = {port = 1, host = "::1"}\n'
    listen = loaded(file, text, flags={"listen.public.port": 3, "listen.internal.port": None}).listen
    assert (listen.public.port, listen.internal.port) == (3, 2)
    assert (listen.public.backlog, listen.public.listeners) == (1, 8)
    assert (listen.internal.host, listen.public.host) == ("::1", "127.0.0.1")


ENVIRONMENT = [
    ("FANWAY_AUTH__AUDIENCE", "a,b", "auth.audience", "a,b"),
    ("FANWAY_AUTH__ANONYMOUS", "true", "auth.anonymous", True),
    ("fanway_node__workers", "1", "node.workers", 1),
    ("FANWAY_HEARTBEAT__GRACE", "1m30s", "heartbeat.grace", 90.0),
    ("FANWAY_HEARTBEAT__GRACE", "2.5", "heartbeat.grace", 2.5),
    ("FANWAY_OUTBOX__SIZE", "2MiB", "outbox.size", 2 << 20),
    ("FANWAY_LIMITS__COSTS__PUBLISH", "7", "limits.costs.publish", 7),
    (
        "FANWAY_LISTEN__PUBLIC__ALLOWED_ORIGINS",
        "https://a, https://b",
        "listen.public.allowed_origins",
        ("https://a", "https://b"),
    ),
    (
        "FANWAY_LISTEN__PUBLIC__ALLOWED_ORIGINS",
        '["https://a"]',
        "listen.public.allowed_origins",
        ("https://a",),
    ),
    ("FANWAY_LISTEN__PUBLIC__ALLOWED_ORIGINS", "", "listen.public.allowed_origins", ()),
    (
        "FANWAY_LISTEN__PUBLIC__TRUSTED_PROXIES",
        "10.0.0.0/8,::1",
        "listen.public.trusted_proxies",
        (ip_network("10.0.0.0/8"), ip_network("::1")),
    ),
    ("FANWAY_CHANNELS__STRICT", "1", "channels.strict", True),
    ("FANWAY_CHANNELS__DEFAULT__HISTORY", "5", "channels.default.history", 5),
]


@pytest.mark.parametrize(("name", "value", "key", "meant"), ENVIRONMENT)
def test_environment(name: str, value: str, key: str, meant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    found: Any = load(None, flags=KEYS)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == meant


def test_environment_reaches_namespaces_whatever_their_case(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FANWAY_CHANNELS__CHAT__HISTORY", "5")
    monkeypatch.setenv("FANWAY_CHANNELS__NEWS__HISTORY", "6")
    rules = loaded(file, "[channels.Chat]\nhistory = 1\npresence = true").namespaces()
    assert sorted(rules) == ["Chat", "default", "news"]
    assert (rules["Chat"].history, rules["Chat"].presence, rules["news"].history) == (5, True, 6)


ENVIRONMENT_FAULTS = [
    (
        "FANWAY_AUTH__SECERT",
        SECRET,
        "auth.secert: unknown key (from FANWAY_AUTH__SECERT); did you mean auth.secret?",
    ),
    (
        "FANWAY_NODE__WORKERS",
        "few",
        'node.workers = "few": not a whole number (from FANWAY_NODE__WORKERS); write a whole number',
    ),
    ("FANWAY_LOG", "debug", "FANWAY_LOG: a section, not a key; set FANWAY_LOG__<KEY>"),
    (
        "FANWAY_LOGS__LEVEL",
        "debug",
        (
            "FANWAY_LOGS__LEVEL: unknown section; known are auth, broker, channels, drain, heartbeat, "
            "limits, listen, log, node, outbox, push"
        ),
    ),
    (
        "FANWAY_DEV__X",
        "1",
        (
            "FANWAY_DEV__X: unknown section; known are auth, broker, channels, drain, heartbeat, "
            "limits, listen, log, node, outbox, push"
        ),
    ),
]


@pytest.mark.parametrize(("name", "value", "line"), ENVIRONMENT_FAULTS)
def test_a_fault_names_its_variable(
    name: str, value: str, line: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert faults_of(file, "", flags=KEYS) == [line]


def test_variables_that_others_set_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANWAY_PORT", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("FANWAY_PORT_8000_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("FANWAY_DEV", "true")
    monkeypatch.setenv("FANWAY_OPENED", "true")
    settings = load(None, flags=KEYS)
    assert (settings.listen.public.port, settings.dev, settings.opened) == (8000, False, False)


DURATIONS = [
    ('"250ms"', 0.25),
    ('"10s"', 10.0),
    ('"5m"', 300.0),
    ('"1h30m"', 5400.0),
    ('"1h 30m"', 5400.0),
    ('"1.5h"', 5400.0),
    ('"1d"', 86400.0),
    ('"12"', 12.0),
    ("12", 12.0),
    ("0.5", 0.5),
]


@pytest.mark.parametrize(("text", "meant"), DURATIONS)
def test_durations(file: Path, text: str, meant: float) -> None:
    assert loaded(file, f"heartbeat.grace = {text}").heartbeat.grace == meant


@pytest.mark.parametrize(
    "text", ['""', '"5mm"', '"5 parsecs"', '"-5s"', '"m"', '"1e3s"', "true", "nan", "-1", '"9999999h"']
)
def test_no_durations(file: Path, text: str) -> None:
    (line,) = faults_of(file, f"heartbeat.grace = {text}", flags=KEYS)
    assert line.startswith("heartbeat.grace = ")


SIZES = [
    ('"64KiB"', 65536),
    ('"1MiB"', 1 << 20),
    ('"1.5 kib"', 1536),
    ('"1GiB"', 1 << 30),
    ('"70000B"', 70000),
    ("70000", 70000),
]


@pytest.mark.parametrize(("text", "meant"), SIZES)
def test_sizes(file: Path, text: str, meant: int) -> None:
    assert loaded(file, f"broker.memory = {text}").broker.memory == meant


@pytest.mark.parametrize("text", ['""', '"64KB"', '"0.5B"', '"-1KiB"', "1.5", "true", "0"])
def test_no_sizes(file: Path, text: str) -> None:
    (line,) = faults_of(file, f"broker.memory = {text}", flags=KEYS)
    assert line.startswith("broker.memory = ")


# ---------------------------------------------------------------- namespaces, and what --dev opens

CLOSED = ("authenticated", "nobody", 0, 300.0, False, False, "catch_up")
OPENED = ("anyone", "anyone", 100, 300.0, True, True, "catch_up")

RULES: list[tuple[str, bool, dict[str, tuple[object, ...]]]] = [
    ("", False, {"default": CLOSED}),
    ("", True, {"default": OPENED}),
    ("[channels]\nstrict = true", True, {"default": OPENED}),
    ("[channels.default]", True, {"default": CLOSED}),
    (
        "[channels.default]\npresence = true",
        True,
        {"default": ("authenticated", "nobody", 0, 300.0, True, False, "catch_up")},
    ),
    (
        '[channels.bench]\nsubscribe = "anyone"\nhistory = 8',
        True,
        {"default": OPENED, "bench": ("anyone", "nobody", 8, 300.0, False, False, "catch_up")},
    ),
    ("[channels.bench]", True, {"default": OPENED, "bench": CLOSED}),
    (
        (
            '[channels.chat]\npublish = "anyone"\n'
            '[channels.default]\nhistory = 9\nhistory_ttl = "1m"\non_slow = "conflate"'
        ),
        False,
        {
            "default": ("authenticated", "nobody", 9, 60.0, False, False, "conflate"),
            "chat": ("authenticated", "anyone", 9, 60.0, False, False, "conflate"),
        },
    ),
]


@pytest.mark.parametrize(("text", "dev", "rules"), RULES)
def test_rules_of_namespaces(file: Path, text: str, dev: bool, rules: dict[str, tuple[object, ...]]) -> None:
    found = loaded(file, text, dev=dev).namespaces()
    assert {name: each.namespace for name, each in found.items()} == {name: name for name in rules}
    assert {
        name: (r.subscribe, r.publish, r.history, r.history_ttl, r.presence, r.join_leave, r.on_slow)
        for name, r in found.items()
    } == rules


def test_environment_changes_what_dev_opens_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANWAY_CHANNELS__DEFAULT__HISTORY", "7")
    rules = load(None, dev=True).namespaces()["default"]
    assert (rules.subscribe, rules.history) == ("anyone", 7)


def test_dev_lets_everybody_in(file: Path) -> None:
    file.write_text('push.keys = ["mine"]')
    settings, other = load(file, dev=True), load(None, dev=True)
    assert settings.dev
    assert settings.auth.anonymous
    assert [key.get_secret_value() for key in settings.push.keys] == ["mine", "dev"]
    secrets = {each.auth.secret.get_secret_value() for each in (settings, other)}
    assert len(secrets) == 2
    assert min(map(len, secrets)) >= 32


def test_dev_keeps_the_configured_secret(file: Path) -> None:
    assert loaded(file, "", dev=True).auth.secret.get_secret_value() == SECRET
    file.write_text('auth.jwks_url = "https://h/keys"')
    assert load(file, dev=True).auth.key_sources() == ["jwks_url"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example.com"])
@pytest.mark.parametrize("listener", ["public", "internal"])
def test_dev_binds_loopback_only(file: Path, host: str, listener: str) -> None:
    key = f"listen.{listener}.host"
    assert faults_of(file, "", dev=True, flags={key: host}) == [
        f'{key} = "{host}": --dev lets everybody in; bind 127.0.0.1, or leave out --dev'
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_dev_binds_any_loopback(host: str) -> None:
    assert load(None, dev=True, flags={"listen.public.host": host}).listen.public.host == host


# ---------------------------------------------------------------- secrets and names


def test_no_secret_in_a_repr(file: Path) -> None:
    text = f'broker.kind = "redis"\nbroker.urls = ["redis://me:{SECRET}@redis.example.com/0"]'
    settings = loaded(file, text)
    assert (
        SECRET
        not in repr(settings) + str(settings) + repr(settings.model_dump()) + settings.model_dump_json()
    )
    assert "redis://redis.example.com" in repr(settings.broker)
    assert settings.broker.addresses() == (f"redis://me:{SECRET}@redis.example.com/0",)
    assert settings.auth.secret == SecretStr(SECRET)


URLS = [
    ("redis://h", "redis://h"),
    (f"redis://u:{SECRET}@h:1/0", "redis://h:1"),
    (f"redis://:{SECRET}@{SECRET}@h", "redis://h"),
    (f"redis://:p/{SECRET}@h", "***"),
    (f"redis://:p?{SECRET}@h", "***"),
    (f"redis://h/0?password={SECRET}", "redis://h"),
    (f"unix:///run/redis?password={SECRET}", "unix://"),
    (SECRET, "***"),
    ("", ""),
]


@pytest.mark.parametrize(("url", "shown"), URLS)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert redacted(url) == shown
    assert repr(Address(url)) == f"Address('{shown}')"


def test_a_node_has_a_name() -> None:
    assert load(None, flags={**KEYS, "node.name": "a-1"}).node_name() == "a-1"
    assert re.fullmatch(r"[A-Za-z0-9_.~-]{1,64}", load(None, flags=KEYS).node_name())


def test_origins_and_what_stands_for_any(file: Path) -> None:
    origins = ["https://App.example.com:8443", "*", "null", "app://x", "http://[::1]:5173"]
    found = loaded(file, f"listen.public.allowed_origins = {json.dumps(origins)}")
    assert found.listen.public.allowed_origins == tuple(origins)


# ---------------------------------------------------------------- keys for tokens


def pem() -> str:
    key = Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_a_secret_serves_every_hmac_unless_one_is_named(file: Path) -> None:
    assert [key.alg for key in loaded(file, "").auth.static_keys()] == ["HS256", "HS384", "HS512"]
    assert [key.alg for key in loaded(file, 'auth.algorithm = "HS512"').auth.static_keys()] == ["HS512"]


def test_a_public_key_serves_the_algorithm_of_its_type(file: Path, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(pem())
    for source, value in (("public_key", pem()), ("public_key_file", str(tmp_path / "key.pem"))):
        file.write_text(f"push.keys = ['k']\nauth.{source} = {json.dumps(value)}")
        assert [key.alg for key in load(file).auth.static_keys()] == ["EdDSA"]


def test_keys_at_a_url_are_not_fetched_here(file: Path) -> None:
    file.write_text('push.keys = ["k"]\nauth.jwks_url = "https://keys.example.com/jwks.json"')
    assert load(file).auth.static_keys() == ()


def test_a_server_s_keys_may_be_missing_for_those_who_only_look(file: Path) -> None:
    file.write_text("listen.internal.port = 1")
    assert load(file, complete=False).listen.internal.port == 1
    file.write_text("listen.internal.port = -1")
    with pytest.raises(ConfigError):
        load(file, complete=False)


# ---------------------------------------------------------------- gateway.toml


def switched_on() -> str:
    return re.sub(r"^#(?=[\[\w])", "", OURS.read_text(), flags=re.MULTILINE)


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in table.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def values(model: BaseModel, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        found |= values(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {prefix + name: value}
    return found


def test_the_file_lists_every_key_and_no_other() -> None:
    assert sorted(flat(tomllib.loads(switched_on()))) == sorted(keys())


def test_the_file_shows_the_defaults() -> None:
    assert values(Settings(**tomllib.loads(switched_on()))) == values(Settings())


def test_the_file_explains_every_key() -> None:
    lines = switched_on().splitlines()
    bare = [
        line
        for above, line in itertools.pairwise(lines)
        if "=" in line and line[0] != "#" and above[:2] != "# "
    ]
    assert bare == []


def test_the_file_as_it_is_leaves_dev_open() -> None:
    settings = load(OURS, dev=True)
    assert settings.opened
    assert settings == load(None, dev=True).model_copy(
        update={"auth": settings.auth, "channels": settings.channels}
    )


def test_the_file_as_it_is_lacks_only_keys() -> None:
    with pytest.raises(ConfigError) as caught:
        load(OURS)
    assert [fault.key for fault in caught.value.faults] == ["auth.secret", "push.keys"]


def test_settings_are_plain_values() -> None:
    assert json.loads(load(None, dev=True).model_dump_json())["limits"]["costs"]["history"] == 4
