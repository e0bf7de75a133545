from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from shmcache import ConfigError
from shmcache.config import SIZE_MIN
from shmcache_server import config as configs
from shmcache_server.config import Config, load
from shmcache_server.tables import OriginConfig

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = {"origin": "http://127.0.0.1:9"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch) -> None:
    monkeypatch.delenv("SHMCACHE_L2", raising=False)
    monkeypatch.delenv("SHMCACHE_CONFIG", raising=False)
    monkeypatch.delenv("SHMCACHE_L2_SECRET", raising=False)
    monkeypatch.delenv("SHMCACHE_PURGE_TOKEN", raising=False)


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "s.toml"
    path.write_text(text)
    return str(path)


def test_deployed_file_is_the_defaults() -> None:
    path = ROOT / "deploy" / "shmcache.toml"
    assert configs._from_file(path) == Config()
    keys = {line.split("=")[0].strip() for line in path.read_text().splitlines()}
    for name in configs._TABLES:
        for field in fields(getattr(Config(), name)):
            assert field.name in keys, f"{name}.{field.name} is not shown"


def test_flags_overrule_the_file(tmp_path) -> None:
    path = written(tmp_path, '[server]\nworkers = 3\n[origin]\nurl = "http://a"\n')
    flags = {"workers": 5, "l1_size": "1GiB", "bind": None, "default_ttl": 2.5}
    config = load(path, flags)
    assert (config.server.workers, config.l1.size) == (5, 1024**3)
    assert config.origin == OriginConfig(url="http://a", default_ttl=2.5)
    assert config.server.bind == Config().server.bind


def test_file_of_the_environment_is_taken(tmp_path, monkeypatch) -> None:
    path = written(tmp_path, '[origin]\nurl = "http://a"\ndefault_ttl = 3\n')
    monkeypatch.setenv("SHMCACHE_CONFIG", path)
    assert load().origin.default_ttl == 3.0


def test_cache_is_told_its_limits_and_the_secret(tmp_path, monkeypatch) -> None:
    path = written(tmp_path, "[limits]\nflights = 7\nwaiters = 8\n")
    monkeypatch.setenv("SHMCACHE_L2_SECRET", "0123456789abcdef")
    cache = load(path, ORIGIN).cache("name", None)
    assert (cache.flights_max, cache.waiters_max) == (7, 8)
    assert cache.l2_secret == b"0123456789abcdef" and "0123" not in repr(cache)
    monkeypatch.setenv("SHMCACHE_L2_SECRET", "short")
    with pytest.raises(ConfigError, match="16 to 64 bytes"):
        load(path, ORIGIN).cache("name", None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\n\nworker = 3\n", ":3: unknown key server.worker"),
        ("[origin]\n[serv]\nx = 1\n", ":2: unknown table 'serv'"),
        ("workers = 3\n", ":1: unknown table 'workers'"),
        ('[server]\nbind = "a\\u0000:1"\n', ":2: bind='a\\x00:1': expected HOST:PORT"),
        ("[server]\nworkers = 'two'\n", ":2: workers='two': expected a whole number"),
        ("[server]\nworkers = true\n", ":2: workers=True: expected a whole number"),
        ("[server]\nworkers = 0\n", ":2: workers=0: expected 1 to 60"),
        ("[l1]\nrecord_bytes = 3\n", ":2: l1_record_bytes=3: expected 16 to"),
        ("[l1]\nkeep = 1\n", ":2: keep=1: expected true or false"),
        ("[l1]\nsize = '3 parsecs'\n", ":2: l1_size='3 parsecs'"),
        ("[l1]\nsize = 1000\n", ":2: l1_size=1000: expected 512 KiB or more"),
        ("[l1]\nname = 'a/b'\n", ":2: l1_name='a/b': expected 1 to 64 letters"),
        ("[limits]\nstored_body = 'x'\n", ":2: stored_body='x': expected a number and"),
        ("[[routes]]\nttl = 1\n", ":1: unknown table 'routes'; expected tables serv"),
        ("[server\n", ": not TOML"),
        ("[origin]\nurl = 'ftp://a'\n", ":2: origin='ftp://a'"),
        ("[origin]\nurl = ['http://a', 'b']\n", ":2: origin='b': expected http://"),
        ("[origin]\nurl = ['http://a', 'http://a/']\n", ":2: origin: expected one"),
        ("[origin]\nurl = []\n", ":2: origin: expected one URL, or several"),
        ("[origin]\nurl = 3\n", ":2: url: expected text, or a list of texts"),
        ("[origin]\nurl = ['http://a', 3]\n", ":2: url: expected text, or a list"),
        ("[origin]\nfirst_byte_timeout = -1\n", ":2: first_byte_timeout=-1.0: expec"),
        ("[origin]\ntotal_timeout = '1s'\n", ":2: total_timeout='1s': expected a num"),
        ("[origin]\nretries = 11\n", ":2: retries=11: expected 0 to 10"),
        ("[origin]\nbreaker_5xx = 1\n", ":2: breaker_5xx=1: expected true or false"),
        ("[origin]\nhealth_path = 'ok'\n", ":2: health_path='ok': expected a path"),
        ("[origin]\nhealth_path = '/a b'\n", ":2: health_path='/a b': expected a"),
        ("[origin]\nhealth_interval = 0\n", ":2: health_interval=0.0: expected 0.1"),
        ("[origin]\ntunnel_timeout = 0\n", ":2: tunnel_timeout=0.0: expected 0.1"),
        ("[origin]\nbudget = -1\n", ":2: budget=-1: expected 0 to 1000000"),
        ("[origin]\nbudget_seconds = 0\n", ":2: budget_seconds=0.0: expected 0.1 to"),
        (
            "[origin]\nbudget = 9\nhealth_path = '/'\n",
            ":3: budget: expected 0 where health_path is set",
        ),
        (
            "[origin]\nbreaker_failures = 0\nhealth_path = '/'\n",
            ":3: breaker_failures=0: expected 1 or more where health_path is set",
        ),
    ],
)
def test_wrong_file_names_file_line_and_key(tmp_path, text, words) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, ORIGIN)
    assert str(caught.value).startswith(path) and words in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "value", "setting"),
    [
        ("origin", "example.com", "origin="),
        ("origin", "http://a/path", "origin="),
        ("origin", "http://a?x", "origin="),
        ("origin", "http://user@a", "origin:"),
        ("origin", "unix://", "origin="),
        ("origin", "unix:app.sock", "origin="),
        ("origin", "unix:///a b", "origin="),
        ("origin", "http://a:port", "origin="),
        ("origin", "http://", "origin="),
        ("origin", "http://a\r\nb", "origin="),
        ("bind", "8080", "bind="),
        ("bind", "127.0.0.1:", "bind="),
        ("bind", "127.0.0.1:65536", "bind="),
        ("workers", 0, "workers="),
        ("l1_size", "big", "l1_size="),
        ("l1_size", "100KiB", "l1_size='100KiB': expected 512 KiB or more"),
        ("l1_name", "a/b", "l1_name="),
        ("l2", "http://a", "l2:"),
        ("l2", "redis://", "l2:"),
        ("l2", "redis://a:port", "l2:"),
        ("l2", "redis+sentinel://", "l2:"),
        ("l2", "unix+cluster://a:1", "l2:"),
        ("admin", "8081", "admin="),
        ("admin", "0.0.0.0:8081", "admin="),
        ("admin", "127.0.0.1:8080", "admin="),
        ("default_ttl", -1.0, "default_ttl="),
    ],
)
def test_wrong_flag_names_the_setting(flag, value, setting) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, ORIGIN | {flag: value})
    assert str(caught.value).startswith(setting)


def test_least_size_is_one_that_the_library_takes() -> None:
    assert load(None, ORIGIN | {"l1_size": "512KiB"}).cache("n", None).size_bytes
    assert configs._SIZES["l1", "size"] == SIZE_MIN


def test_origin_must_be_named() -> None:
    with pytest.raises(ConfigError, match="origin: not set"):
        load()


def test_origin_may_have_several_upstreams(tmp_path) -> None:
    path = written(tmp_path, "[origin]\nurl = ['http://a/', 'https://b:9']\n")
    origin = load(path).origin
    assert origin.bases == ("http://a", "https://b:9") and origin.base == "http://a"
    assert load(path, {"origin": "http://c"}).origin.bases == ("http://c",)


def test_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match="config=/nowhere: cannot be read"):
        load("/nowhere")


@pytest.mark.parametrize(
    ("flag", "environment", "url"),
    [
        ("auto", None, "none"),
        ("auto", "redis://a/1", "redis://a/1"),
        ("none", "redis://a/1", "none"),
        ("embedded", None, "embedded"),
        ("unix:///r.sock", "redis://a", "unix:///r.sock"),
        ("redis+sentinel://a:1,b:2/main", "", "redis+sentinel://a:1,b:2/main"),
        ("rediss+cluster://a:1,b:2", "", "rediss+cluster://a:1,b:2"),
    ],
)
def test_l2_is_what_was_configured_or_found(flag, environment, url, monkeypatch):
    if environment:
        monkeypatch.setenv("SHMCACHE_L2", environment)
    assert configs.l2_url(load(None, ORIGIN | {"l2": flag}))[0] == url


def test_wrong_l2_of_the_environment_is_named(monkeypatch) -> None:
    monkeypatch.setenv("SHMCACHE_L2", "redis://:secret@a:port")
    with pytest.raises(ConfigError, match="SHMCACHE_L2") as caught:
        configs.l2_url(load(None, ORIGIN))
    assert "secret" not in str(caught.value)


def test_only_config_reads_the_environment() -> None:
    """And the example's settings its vendors' keys, which stand in no file."""
    source = ROOT / "server" / "shmcache_server"
    reading = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if re.search(r"environ\.get|environ\[|getenv", path.read_text())
    }
    assert reading == {"config.py", "market/settings.py"}


@pytest.mark.parametrize("value", ["['redis://:hunter2@h']", "'hunter2:redis'"])
def test_url_of_a_wrong_kind_in_the_file_is_not_repeated(tmp_path, value) -> None:
    with pytest.raises(ConfigError, match=r":2: (url|l2): expected") as caught:
        load(written(tmp_path, f"[l2]\nurl = {value}\n"), ORIGIN)
    assert "hunter2" not in str(caught.value)


# -- the token of who purges

TOKEN = "hunter2-hunter2-hunter2"


@pytest.mark.parametrize(
    ("setting", "named", "environment", "found"),
    [
        ("", "", None, ""),
        (TOKEN, "", None, TOKEN),
        (TOKEN, TOKEN[::-1], None, TOKEN[::-1]),
        (TOKEN, "", TOKEN[::-1], TOKEN[::-1]),
        ("", TOKEN, "", TOKEN),
        ("", TOKEN, TOKEN[::-1], TOKEN[::-1]),
    ],
)
def test_token_is_of_environment_file_or_setting(
    tmp_path, monkeypatch, setting, named, environment, found
) -> None:
    text = f"[purge]\ntoken = '{setting}'\n"
    if named:
        (tmp_path / "token").write_text(f"{named}\n")
        text += f"token_file = '{tmp_path}/token'\n"
    if environment is not None:
        monkeypatch.setenv("SHMCACHE_PURGE_TOKEN", environment)
    config = load(written(tmp_path, text), ORIGIN)
    assert config.purge.token == found
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("token = 'hunter2'", ":2: token: expected 16 to 256 visible"),
        ("token = 'hunter2 hunter2 hunter2'", ":2: token: expected 16 to"),
        ("token = ['hunter2']", ":2: token: expected text"),
        ("token_file = '/nowhere'", "token_file=/nowhere: cannot be read: No such"),
        ("token_file = '/dev/null'", "token_file=/dev/null: it is empty"),
        ("wait = 61", ":2: wait=61.0: expected 0 to 60"),
        ("prefixes = 9", ":2: prefixes=9: expected 0 to 8"),
    ],
)
def test_wrong_setting_of_purges_is_named(tmp_path, text, words) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, f"[purge]\n{text}\n"), ORIGIN)
    assert words in str(caught.value) and "hunter2" not in str(caught.value)


def test_wrong_token_elsewhere_is_not_repeated(tmp_path, monkeypatch) -> None:
    (tmp_path / "token").write_text("hunter2")
    path = written(tmp_path, f"[purge]\ntoken_file = '{tmp_path}/token'\n")
    with pytest.raises(ConfigError, match=r"token_file=.*/token: token: ") as caught:
        load(path, ORIGIN)
    monkeypatch.setenv("SHMCACHE_PURGE_TOKEN", "hunter2")
    with pytest.raises(ConfigError, match="SHMCACHE_PURGE_TOKEN: token: ") as other:
        load(path, ORIGIN)
    assert "hunter2" not in f"{caught.value}{other.value}"


def test_settings_of_l1_reach_the_cache() -> None:
    flags = {"l1_size": "128MiB", "l1_keep": True, "l1_record_bytes": 4000}
    cache = load(None, ORIGIN | flags).cache("n", None)
    assert (cache.size_bytes, cache.keep, cache.record_bytes) == (128 << 20, True, 4000)
