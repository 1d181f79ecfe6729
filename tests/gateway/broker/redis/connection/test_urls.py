"""Parts of a URL. tests/gateway/settings has the errors as operators read them."""

import pytest

from gateway.broker.redis.connection.urls import BadUrl, Url, parse_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("redis://a", Url("redis", (("a", 6379),))),
        ("REDIS://A:1/2", Url("redis", (("a", 1),), database=2)),
        ("redis://a?db=2", Url("redis", (("a", 6379),), database=2)),
        ("rediss://u:p%40@[::1]:7", Url("rediss", (("::1", 7),), username="u", password="p@")),
        ("unix:///run/redis%20a.sock", Url("unix", path="/run/redis a.sock")),
        (
            "redis+sentinel://a,b:1/main/3",
            Url("redis", (("a", 26379), ("b", 1)), primary="main", database=3),
        ),
    ],
)
def test_the_parts_of_a_url(text: str, url: Url) -> None:
    assert parse_url(text) == url


def test_arguments_for_tls_are_parsed() -> None:
    url = parse_url("rediss://a?ssl_cert_reqs=None&ssl_check_hostname=no&ssl_min_version=771")
    assert url.tls == {"ssl_cert_reqs": "none", "ssl_check_hostname": False, "ssl_min_version": 771}


@pytest.mark.parametrize(
    "text",
    [
        "redis://a,b",
        "redis://a:0",
        "redis://a:65536",
        "redis://[::1",
        "redis://a/x",
        "redis://a/1?db=1",
        "redis://a?db=1&db=2",
        "redis://a?db=x",
        "redis://a?timeout=1",
        "redis://a?ssl_keyfile=k",
        "redis://a?sentinel_username=u",
        "redis://a b",
        "redis://u:p#@a",
        "redis://a/@b",
        "unix://a/b",
        "redis+sentinel://a",
    ],
)
def test_a_url_with_anything_wrong_is_rejected(text: str) -> None:
    with pytest.raises(BadUrl):
        parse_url(text)
