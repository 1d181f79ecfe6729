"""Faults between keys, and of keys whose values are URLs, files and tokens' keys."""

from pathlib import Path

import pytest

from gateway.settings import ConfigError, load
from tests.broker.redis_tls import CertificateAuthority
from tests.gateway.settings.settings_kit import KEYS, PEM, SECRET, faults_of, loaded

NO_PORT = "not a host with a port from 1 to 65535; write host or host:port, and an IPv6 address as [::1]"


NO_DATABASE = "what follows the last / is not a database's number; write a number, or leave it out"


NOT_HERE = "is not to be set here; leave it out; docs/configuration.md has what is"


ESCAPE = "escape it if it belongs to a password: / is %2F, ? is %3F, # is %23, @ is %40, a blank is %20"


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
def test_an_ambiguous_url_is_a_fault(file: Path, url: str, shown: str, text: str) -> None:
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
def test_a_valid_url_is_accepted(file: Path, url: str) -> None:
    assert loaded(file, "", flags={"broker.kind": "redis", "broker.url": url}).broker.addresses() == (url,)


@pytest.mark.parametrize("url", ["https://[x", "https://h:abc/keys", "https://h:99999/"])
def test_a_malformed_jwks_url_is_a_fault(file: Path, url: str) -> None:
    (line,) = faults_of(file, "", flags={"auth.jwks_url": url, "push.keys": ["k"]})
    assert line.endswith("not a URL; write https://host/path")


def test_a_certificate_must_fit_its_key(file: Path, tmp_path: Path) -> None:
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
def test_faults_of_keys_do_not_show_the_key(file: Path, text: str, lines: list[str]) -> None:
    assert faults_of(file, text) == lines


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example.com"])
@pytest.mark.parametrize("listener", ["public", "internal"])
def test_dev_mode_rejects_addresses_other_than_loopback(file: Path, host: str, listener: str) -> None:
    key = f"listen.{listener}.host"
    assert faults_of(file, "", dev=True, flags={key: host}) == [
        f'{key} = "{host}": --dev lets everybody in; bind 127.0.0.1, or leave out --dev'
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_dev_mode_accepts_any_loopback_address(host: str) -> None:
    assert load(None, dev=True, flags={"listen.public.host": host}).listen.public.host == host


def test_keys_that_only_a_server_needs_may_be_missing_in_other_commands(file: Path) -> None:
    file.write_text("listen.internal.port = 1")
    assert load(file, complete=False).listen.internal.port == 1
    file.write_text("listen.internal.port = -1")
    with pytest.raises(ConfigError):
        load(file, complete=False)
