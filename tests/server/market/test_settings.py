"""The table [app.settings]."""

from __future__ import annotations

import pytest

from shmcache import ConfigError
from shmcache_server.market import settings


def test_nothing_told_is_the_defaults() -> None:
    assert settings.of({}) == settings.Settings()


def test_told_values_take_the_place_of_defaults() -> None:
    told = settings.of(
        {
            "deadline": 4,
            "classes": {"real_time": {"ttl": 1}},
            "vendors": {"taapi": {"url": "http://127.0.0.1:9/taapi", "calls": 2}},
        }
    )
    assert told.deadline == 4.0
    assert told.classes["real_time"].ttl == 1.0
    assert told.classes["real_time"].grace == 600.0
    assert told.vendors["taapi"].url == "http://127.0.0.1:9/taapi"
    assert told.vendors["taapi"].seconds == 15.0
    assert told.vendors["binance"] == settings.Settings().vendors["binance"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"dead_line": 1}, "settings.dead_line: no such setting"),
        ({"deadline": "8"}, "settings.deadline='8': expected a number"),
        ({"deadline": True}, "expected a number"),
        ({"deadline": 0}, "settings: deadline=0.0: expected 0.1 to 60"),
        ({"clients": 1.5}, "settings.clients=1.5: expected a whole number"),
        ({"classes": {"daily": {}}}, "classes.daily: expected one of real_time"),
        ({"classes": {"short": {"ttl": 0.5}}}, "classes.short: ttl=0.5: expected 1"),
        ({"classes": {"short": {"ttl": float("nan")}}}, "ttl=nan"),
        ({"classes": {"short": 3}}, "classes.short=3: expected a table"),
        ({"classes": 3}, "classes=3: expected a table"),
        ({"vendors": {"kraken": {}}}, "vendors.kraken: expected one of coingecko"),
        ({"vendors": {"cmc": {"key": "x"}}}, "vendors.cmc.key: no such setting"),
        ({"vendors": {"cmc": {"url": "ftp://x"}}}, "vendors.cmc: url='ftp://x'"),
        ({"vendors": {"cmc": {"url": "http://h:99999"}}}, "vendors.cmc: url: expected"),
        ({"vendors": {"cmc": {"url": "http://[::1"}}}, "vendors.cmc: url: expected"),
        ({"vendors": {"cmc": {"url": "http://a b"}}}, "vendors.cmc: url='http://a b'"),
        (
            {"vendors": {"cmc": {"url": "http://a/#x"}}},
            "vendors.cmc: url='http://a/#x'",
        ),
        ({"vendors": {"cmc": {"url": "http://a/?"}}}, "vendors.cmc: url='http://a/?'"),
        ({"vendors": {"cmc": {"url": "api.org"}}}, "vendors.cmc: url='api.org'"),
        ({"vendors": {"cmc": {"elsewhere": "x"}}}, "vendors.cmc: elsewhere='x'"),
        ({"attempt_timeout": 29}, "attempt_timeout=29.0: expected 0.05 to 25"),
        ({"parts": {"btc": "daily"}}, "parts.btc='daily': expected one of real_time"),
        ({"parts": {"eth": "short"}}, "parts.eth: expected one of btc, global"),
        ({"parts": {"btc": ["x"]}}, "parts.btc=['x']: expected one of real_time"),
        ({"parts": 3}, "parts=3: expected a table"),
        ({"vendors": {"cmc": {"calls": 0}}}, "vendors.cmc: calls=0: expected 1"),
        (
            {"vendors": {"binance": {"calls": 1}}},
            "vendors.binance: calls=1: expected 2",
        ),
    ],
)
def test_wrong_setting_is_named(table, words) -> None:
    with pytest.raises(ConfigError) as raised:
        settings.of(table)
    assert words in str(raised.value)


def test_url_with_a_password_is_not_repeated() -> None:
    table = {"vendors": {"cmc": {"url": "http://me:secret@example.org"}}}
    with pytest.raises(ConfigError) as raised:
        settings.of(table)
    assert "secret" not in str(raised.value)


def test_key_is_the_environments(monkeypatch) -> None:
    row = settings.of({"vendors": {"cmc": {"key_env": "MY_KEY"}}}).vendors["cmc"]
    assert row.key == ""
    monkeypatch.setenv("MY_KEY", "abc")
    assert row.key == "abc" and "abc" not in repr(row)


def test_part_lives_by_the_class_it_is_given() -> None:
    told = settings.of({"parts": {"rsi": "custom"}, "classes": {"custom": {"ttl": 7}}})
    assert told.lives("rsi").ttl == 7.0 and told.lives("btc").ttl == 30.0


def test_key_of_a_file_loses_its_newline(monkeypatch) -> None:
    row = settings.of({"vendors": {"cmc": {"key_env": "MY_KEY"}}}).vendors["cmc"]
    monkeypatch.setenv("MY_KEY", "abc\n")
    assert row.key == "abc"


@pytest.mark.parametrize("key", ["a\nb", "a\x7f", "\u00fc"])
def test_key_that_no_field_takes_is_named(monkeypatch, key) -> None:
    """And not repeated: it is a key."""
    row = settings.of({"vendors": {"cmc": {"key_env": "MY_KEY"}}}).vendors["cmc"]
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ConfigError) as raised:
        _ = row.key
    assert str(raised.value) == "MY_KEY: expected printable ASCII"


def test_keys_that_are_not_set_are_told(monkeypatch) -> None:
    told = settings.Settings()
    for row in told.vendors.values():
        monkeypatch.setenv(row.key_env or "NONE", "abc")
    assert settings.keyless(told) == []
    monkeypatch.delenv("TAAPI_KEY")
    (line,) = settings.keyless(told)
    assert line == "market: TAAPI_KEY is not set: taapi is not asked"
    monkeypatch.setenv("TAAPI_KEY", "a\nb")
    with pytest.raises(ConfigError, match="TAAPI_KEY: expected printable ASCII"):
        settings.keyless(told)
