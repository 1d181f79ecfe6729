"""What the faults of a configuration say."""

from pathlib import Path

import pytest

from tests.gateway.settings.settings_kit import KEYS, SECRET, faults_of

NO_URL = (
    'not a Redis URL; write "redis://host:6379", rediss://, unix:// or redis+sentinel://host:26379/primary'
)


ONE_FAULT = [
    ('[auth]\nsecert = "x"', "auth.secert: unknown key; did you mean auth.secret?"),
    ("[outbocks]\nsize = 1", "outbocks: unknown key; did you mean outbox?"),
    ("[PUSH]\nkeys = []", "PUSH: unknown key; did you mean push?"),
    ("[zzz]", "zzz: unknown key; docs/configuration.md lists every key"),
    ("[outbox]\nzzz = 1", "outbox.zzz: unknown key; docs/configuration.md lists every key"),
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
    ("dev = true", "dev: unknown key; docs/configuration.md lists every key"),
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
    ("[heartbeat]\ngrace = 0", "heartbeat.grace = 0: too small; give at least 0.001"),
    (
        '[outbox]\nsize = "1 potato"',
        'outbox.size = "1 potato": not a size; write "16KiB", "1MiB", "1GiB" or a number of bytes',
    ),
    ("[listen.public]\nlisteners = 1000", "listen.public.listeners = 1000: too large; give at most 64"),
    ("[limits]\ncommands_per_second = 0", "limits.commands_per_second = 0: too small; give at least 0.001"),
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
            'use --redis URL (broker.kind = "redis", broker.url), or 1 worker'
        ),
    ),
    (
        '[node]\nworkers = 1000\n[broker]\nkind = "redis"\nurl = "redis://h"',
        ("node.workers = 1000: too large; give at most 256"),
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
        "[limits.costs]\nhistory = 501",
        (
            "limits.costs.history = 501: more than limits.command_burst, so that nobody could ever pay; "
            "give at most 500"
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


def test_every_fault_is_reported_at_once(file: Path) -> None:
    text = "[outbox]\nsiz = 1\nlow_water = 9000000\n[heartbeat]\ngrace = 0\n[push]\nkeys = []"
    answer = [line.partition(":")[0] for line in faults_of(file, text)]
    assert answer == [
        "heartbeat.grace = 0",
        "outbox.siz",
        "auth.secret",
        "push.keys",
        "outbox.low_water = 9000000",
    ]


def test_a_fault_is_one_line_whatever_its_value(file: Path) -> None:
    line = "x" * 100 + "\\n\\u001b"
    (answer,) = faults_of(file, f'node.name = "\\n{line}"\n', flags=KEYS)
    assert answer.startswith('node.name = "\\nxxx')
    assert answer.isprintable()
    assert "…" in answer
