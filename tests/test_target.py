"""What a URL may say; and no message repeats it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from shmcache.errors import ConfigError
from shmcache.target import parse


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://user:hunter2@host",
        "redis+sentinels://:hunter2@host/name",
        "redis://",
        "redis://:hunter2@",
        "redis://:hunter2@host:99999",
        "redis://:hunter2@host:0",
        "redis://:hunter2@host:port",
        "redis://:hunter2@host:",
        "redis://:hunter2@[::1",
        "redis://:hunter2@::1",
        "redis://:hunter2@host/first",
        "redis://:hunter2@host/1/2",
        "redis://:hunter2@a,b",
        "redis://:hunter2@host?socket_timeout=100",
        "redis://:hunter2@host?db=one",
        "redis://:hunter2@host?db",
        "rediss://:hunter2@host?ssl_min_version=new",
        "rediss://:hunter2@host?ssl_cert_reqs=hunter2",
        "rediss://:hunter2@host?ssl_check_hostname=perhaps",
        "rediss://:hunter2@host?ssl_ca_certs=/nowhere/hunter2",
        "rediss://:hunter2@host?ssl_certfile=/nowhere/hunter2",
        "unix://",
        "unix:///",
        "unix://relative?password=hunter2",
        "redis+sentinel://:hunter2@",
        "redis+sentinel://:hunter2@host:26379",
        "redis+sentinel://:hunter2@host:26379/",
        "redis+sentinel://:hunter2@host/a name",
        "redis+sentinel://:hunter2@host/name/db",
        "redis+sentinel://:hunter2@,/name",
        "redis+sentinel://:hunter2@a,,b/name",
        "redis+sentinel://h/name?sentinel_secret=hunter2",
        "redis+cluster://:hunter2@",
        "redis+cluster://:hunter2@a,",
        "redis+cluster://:hunter2@a,b/1",
        "redis+cluster://:hunter2@a,b?db=1",
        "redis://hunter2@host",
        "redis+sentinel://hunter2@host/name",
        "redis+cluster://hunter2@a,b",
        "unix:///r.sock?username=hunter2",
        "redis+sentinel://host/name?sentinel_username=hunter2",
        "redis://:a/hunter2@host",
        "redis+sentinel://:a/hunter2@host/name",
        "redis://:a?hunter2@host",
        "redis:hunter2@host",
        "redis://:hunter2@host..",
        "redis://:hunter2@ho%00st",
    ],
)
def test_malformed_url_names_the_setting_and_no_password(url: str) -> None:
    with pytest.raises(ConfigError, match="l2: ") as refused:
        parse(url)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "kind", "places"),
    [
        ("redis://localhost", "single", "[localhost:6379]"),
        ("redis://user:pass@[::1]:6380/3", "single", "[::1:6380]"),
        ("redis://user:@host", "single", "[host:6379]"),
        ("redis://:@my_host.", "single", "[my_host.:6379]"),
        ("redis://:p%40ss%2F@host/2", "single", "[host:6379]"),
        ("rediss://host/0?ssl_cert_reqs=none", "single", "[host:6379]"),
        ("unix:///run/redis.sock?db=2", "single", "[/run/redis.sock]"),
        ("redis+sentinel://u:p@a,b:1/name/3", "sentinel", "[a:26379, b:1]"),
        ("redis+cluster://u:p@a:1,[::2]:3", "cluster", "[a:1, ::2:3]"),
        ("rediss+cluster://a,b?ssl_min_version=TLSv1.3", "cluster", "[a:6379, b:6379]"),
    ],
)
def test_usual_urls_are_taken(url: str, kind: str, places: str) -> None:
    target = parse(url)
    assert (target.kind, repr(target.addresses)) == (kind, places)


def test_password_of_redis_is_not_told_to_the_sentinels() -> None:
    url = "redis+sentinel://user:hunter2@a/name/3?sentinel_password=other"
    target = parse(url)
    assert target.master is not None
    (sentinel,) = target.addresses
    assert (sentinel._user, sentinel._password) == ("", "other")
    assert (target.master._user, target.master._password) == ("user", "hunter2")
    assert (target.master._db, sentinel._db) == (3, 0)
    assert "hunter2" not in repr(target) and "other" not in repr(target)


def test_certificates_are_demanded_unless_the_url_says_not() -> None:
    strict, lax = (
        parse("rediss://host" + options).addresses[0]._tls
        for options in ("", "?ssl_cert_reqs=none")
    )
    assert strict is not None and lax is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)
    assert strict.minimum_version is ssl.TLSVersion.TLSv1_2


def test_certificate_file_that_is_none_is_a_setting(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("hunter2")
    with pytest.raises(ConfigError, match="ssl_ca_certs") as refused:
        parse(f"rediss://host?ssl_ca_certs={path}")
    assert "hunter2" not in str(refused.value)


def test_key_with_a_passphrase_is_a_setting_and_asks_nobody(tmp_path: Path) -> None:
    own = trustme.CA().issue_cert("client@example.com")
    key = serialization.load_pem_private_key(own.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"hunter2"),
    )
    key_file, cert_file = tmp_path / "key.pem", tmp_path / "cert.pem"
    key_file.write_bytes(locked)
    own.cert_chain_pems[0].write_to_path(str(cert_file))
    url = f"rediss://host?ssl_certfile={cert_file}&ssl_keyfile={key_file}"
    with pytest.raises(ConfigError, match="ssl_keyfile to be a key without a pass"):
        parse(url)
    own.private_key_pem.write_to_path(str(key_file))
    parse(url)
