"""Addresses in settings: what they are split into, and what of them is told."""

from __future__ import annotations

import pytest

from shmcache import ConfigError
from shmcache_server.addresses import loopback, parse_address, redacted
from shmcache_server.config import load
from tests.server.test_config import ORIGIN


@pytest.mark.parametrize(
    ("text", "found"), [("a:1", ("a", 1)), ("[::1]:80", ("::1", 80))]
)
def test_address_is_host_and_port(text, found) -> None:
    assert parse_address(text, "bind") == found


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://[::1]:1", "redis://[::1]:1"),
        ("redis://hunter2:hunter2@h/0", "redis://h/0"),
        ("redis://:hunter2@h?db=1", "redis://h"),
        ("redis://:a@hunter2@h:6379", "redis://h:6379"),
        ("redis://:a/hunter2@h:6379", "redis://h:6379"),
        ("redis://:a?hunter2@h:6379", "redis://***"),
        ("redis://hunter2?a@h:6379", "redis://***"),
        ("redis://:hunter2", "redis://***"),
        ("redis://:hunter2:6379", "redis://***"),
        ("redis://user:hunter2", "redis://***"),
        ("redis://[hunter2", "redis://***"),
        ("rediss://:hunter2@h:1?ssl_keyfile=/hunter2.pem", "rediss://h:1"),
        ("redis+sentinel://:a/hunter2@h:1,i/s", "redis+sentinel://h:1,i/s"),
        ("redis+sentinel://h:1/s?sentinel_password=hunter2", "redis+sentinel://h:1/s"),
        ("redis+sentinel://h/s?sentinel_password=hunter2@x", "redis+sentinel://***"),
        ("redis+cluster://:hunter2@a:1,[::2]:3", "redis+cluster://a:1,[::2]:3"),
        ("unix:///r.sock?username=hunter2&password=hunter2", "unix:///r.sock"),
        ("unix:///r.sock?password=hunter2@a/b?c", "unix:///r.sock"),
        ("unix://:hunter2@/r.sock", "unix://***"),
        ("redis:hunter2@h", "***"),
        ("reddis://:hunter2@h", "***"),
        (":hunter2@h:6379", "***"),
        ("hunter2", "***"),
        ("", "***"),
        ("embedded", "embedded"),
    ],
)
def test_password_is_neither_logged_nor_repeated(url, shown) -> None:
    assert redacted(url) == shown
    try:
        told = repr(load(None, ORIGIN | {"l2": url}))
    except ConfigError as e:
        told = f"{e} {e.__cause__}"
    assert "hunter2" not in told


def test_password_of_the_origin_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="origin: expected http") as caught:
        load(None, {"origin": "http://user:hunter2@a"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_loopback_is_this_machine_only(host, own) -> None:
    assert loopback(host) is own
