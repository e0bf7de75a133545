"""What the master holds, and the names it gives."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

import pytest

from shmcache import ConfigError
from shmcache_server.arbiter import Holding, _check_free, or_exit, segment_name
from shmcache_server.config import Config
from shmcache_server.tables import L1Config, L2Config, OriginConfig
from tests import helpers
from tests.helpers import free_port, shm_names


def config(**l1: object) -> Config:
    return Config(
        origin=OriginConfig(url="http://127.0.0.1:1"),
        l1=L1Config(name=helpers.segment_name(), **l1),
        l2=L2Config(url="none"),
    )


def address() -> tuple[str, int]:
    return ("127.0.0.1", free_port())


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (("127.0.0.1", 8080), "127.0.0.1-8080"),
        (("::1", 80), "1-80"),
        (("0.0.0.0", 80), "0.0.0.0-80"),
    ],
)
def test_segment_is_named_by_user_and_address(where, name) -> None:
    assert segment_name(where) == f"u{os.geteuid()}-{name}"


def test_segment_names_of_other_addresses_differ() -> None:
    places = [("a", 1), ("a", 2), ("b", 1), ("a", 0), "/run/a.sock", "/run/b.sock"]
    assert len({segment_name(p) for p in places}) == len(places)


@pytest.mark.parametrize("keep", [False, True])
def test_held_segment_goes_with_a_clean_stop_unless_kept(keep) -> None:
    settings = config(keep=keep)
    holding = Holding(settings, [address()])
    (made,) = shm_names(settings.l1.name)
    holding.close()
    holding.close()
    assert bool(shm_names(settings.l1.name)) is keep
    if keep:
        os.unlink(f"/dev/shm/{made}")


def test_forked_child_lets_go_of_nothing() -> None:
    settings = config()
    holding = Holding(settings, [address()])
    child = os.fork()
    if child == 0:
        holding.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert shm_names(settings.l1.name)
    holding.close()
    assert not shm_names(settings.l1.name)


def test_holding_that_fails_half_way_leaves_nothing(monkeypatch) -> None:
    def refuse() -> None:
        raise ConfigError("l2=embedded: refused")

    monkeypatch.setattr("shmcache_server.arbiter.EmbeddedRedis", refuse)
    settings = replace(config(), l2=L2Config(url="embedded"))
    with pytest.raises(ConfigError, match="refused"):
        Holding(settings, [address()])
    assert not shm_names(settings.l1.name)


def test_reload_keeps_segment_and_l2(caplog) -> None:
    holding = Holding(config(), [address()])
    old = holding.config
    new = OriginConfig(url="http://127.0.0.1:2")
    holding.reload(replace(config(), origin=new))
    assert holding.config == replace(old, origin=new)
    assert "take a restart" in caplog.text
    holding.close()


def test_address_in_use_is_refused() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        with pytest.raises(ConfigError, match=r"admin=127\.0\.0\.1:"):
            _check_free(s.getsockname(), "admin")
    _check_free(("127.0.0.1", 0), "bind")
    _check_free("/run/some.sock", "bind")


def test_wrong_setting_ends_with_one_line(capsys) -> None:
    def wrong() -> None:
        raise ConfigError("bind=x: of\ntwo lines")

    with pytest.raises(SystemExit) as ended:
        or_exit(wrong)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "shmcache: bind=x: of two lines\n"
