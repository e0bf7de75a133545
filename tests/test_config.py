"""Settings: sizes, and that each wrong one is named."""

import pytest

from shmcache import CacheConfig, ConfigError, parse_size
from shmcache.config import SIZE_MIN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64MiB", 64 << 20),
        ("1 GB", 1 << 30),
        ("1.5K", 1536),
        ("4096", 4096),
        (4096, 4096),
    ],
)
def test_size_forms_become_bytes(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "x", "-1MiB", "0", "64 mib", "1e9", True, 0, "129TiB", "9" * 400, 10**400],
)
def test_size_of_wrong_form_is_named(text):
    with pytest.raises(ConfigError, match="l1_size"):
        parse_size(text, "l1_size")


def test_size_below_the_least_is_told_with_an_example():
    assert parse_size("512KiB", least=SIZE_MIN) == SIZE_MIN
    with pytest.raises(ConfigError) as told:
        parse_size("511KiB", "l1_size", SIZE_MIN)
    words = "expected 512 KiB or more, such as 64MiB"
    assert str(told.value) == f"l1_size='511KiB': {words}"


def test_unit_that_is_none_is_told_what_there_are():
    with pytest.raises(ConfigError) as told:
        parse_size("64XB")
    assert str(told.value) == (
        "size='64XB': expected a number and B, KiB, MiB, GiB or TiB, such as 64MiB"
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("shop/prices", "shop-prices"),
        ("/tmp/cache", "tmp-cache"),
        ("../x", "x"),
        ("-v", "v"),
        ("a" * 65, "a" * 64),
        ("", "market"),
        ("///", "market"),
        (7, "7"),
    ],
)
def test_name_that_no_file_may_bear_is_told_one_near(name, near):
    for settings in ({"name": name}, {"name": "n", "app": name}):
        if not settings.get("app", name):
            continue
        with pytest.raises(ConfigError) as told:
            CacheConfig(**settings)
        words = "the first a letter or a digit, such as "
        assert str(told.value).endswith(f"{words}{near!r}")
        assert CacheConfig(near).name == near


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("name", ""),
        ("name", "a/b"),
        ("name", "../x"),
        ("name", "a~1"),
        ("size_bytes", 0),
        ("size_bytes", 1000),
        ("size_bytes", -1),
        ("size_bytes", 2**64),
        ("app", "a b"),
        ("codec", "pickle"),
        ("l2_deadline", 0),
        ("hard_timeout", -1),
        ("lease_life", 1.0),
        ("jitter", 1.5),
        ("record_bytes", 0),
        ("soft_timeout", -0.1),
        ("soft_timeout", float("nan")),
        ("early_refresh", -1),
        ("flights_max", 0),
        ("waiters_max", 0),
        ("waiters_max", True),
        ("waiters_max", "1"),
    ],
)
def test_setting_out_of_range_is_named(setting, value):
    settings = {"name": "n"} | {setting: value}
    with pytest.raises(ConfigError, match=f"^{setting}="):
        CacheConfig(**settings)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "rediss://:p@h:1/0",
        "unix:///run/redis.sock",
        "redis+sentinel://a:1,b:2/main/0",
        "rediss+cluster://a:1,b:2",
    ],
)
def test_url_of_a_redis_is_taken(url):
    assert CacheConfig("n", l2=url).l2 == url


@pytest.mark.parametrize("url", ["", "redis", "http://h", "localhost:1", 7])
def test_url_of_no_redis_is_refused(url):
    with pytest.raises(ConfigError, match="l2: expected a URL of scheme"):
        CacheConfig("n", l2=url)


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("redis://", "redis://host:6379/0"),
        ("rediss:///", "rediss://host:6379/0"),
        ("unix://", "unix:///path/to/socket"),
        ("redis+sentinel://", "redis+sentinel://host:26379,host:26379/service"),
        ("rediss+cluster://", "rediss+cluster://host:6379,host:6379"),
    ],
)
def test_url_of_nothing_is_told_a_whole_one(url, whole):
    with pytest.raises(ConfigError) as told:
        CacheConfig("n", l2=url)
    scheme = url.partition("://")[0]
    assert str(told.value) == f"l2: nothing behind {scheme}://, expected {whole}"


@pytest.mark.parametrize(
    "url", ["hunter2", ":hunter2@h:1", "redis:hunter2@h", "hunter2://h", "r://:hunter2"]
)
def test_url_that_is_refused_is_not_repeated(url):
    with pytest.raises(ConfigError, match="l2: expected") as told:
        CacheConfig("n", l2=url)
    assert "hunter2" not in f"{told.value} {told.value.__cause__}"


@pytest.mark.parametrize("secret", [b"x" * 15, b"x" * 65, "x" * 32])
def test_secret_of_wrong_size_is_refused_and_not_told(secret):
    with pytest.raises(ConfigError, match="l2_secret") as told:
        CacheConfig("n", l2_secret=secret)
    assert "xx" not in str(told.value)


def test_settings_are_shown_without_secrets():
    shown = repr(CacheConfig("n", l2="redis://:pass@h", l2_secret=b"x" * 32))
    assert "pass" not in shown and "xx" not in shown
