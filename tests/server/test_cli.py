"""The command line as a process: a wrong setting is one line and exit code 2."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from shmcache import l1
from shmcache.address import ACL_RULES
from shmcache_server.cli import commands
from tests.fleets import add_user
from tests.helpers import SHM, end, free_port, python, segment_name, shm_names
from tests.redis_server import RedisServer, redis_server
from tests.tls import tls_redis

ORIGIN = ("--origin", "http://127.0.0.1:1")


def refused(*flags: str, **options: object) -> str:
    """What `shmcache serve` says when it does not start: one line."""
    process = python(
        *("-m", "shmcache_server", "serve", *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    try:
        said, _ = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:  # it started
        end(process)
        raise
    assert process.returncode == 2, said
    assert said.count("\n") == 1 and said.startswith("shmcache: "), said
    assert "Traceback" not in said
    if "--l1-name" in flags:
        assert not shm_names(flags[flags.index("--l1-name") + 1])
    return said.removeprefix("shmcache: ")


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server(port=free_port()) as running:
        yield running


def flags(**changed: str) -> list[str]:
    given = {"bind": f"127.0.0.1:{free_port()}", "l1-name": segment_name()}
    given |= {"origin": "http://127.0.0.1:1"} | {
        k.replace("_", "-"): v for k, v in changed.items()
    }
    return [part for name, value in given.items() for part in (f"--{name}", value)]


@pytest.mark.parametrize(
    ("changed", "setting"),
    [
        ({"origin": "example.com"}, "origin="),
        ({"l1_size": "big"}, "l1_size="),
        ({"l1_size": "900TiB"}, "l1_size="),
        ({"l1_size": "100KiB"}, "l1_size="),
        ({"l1_record_bytes": "1"}, "l1_record_bytes=1: expected 16 to"),
        ({"l2": "http://a"}, "l2:"),
        ({"workers": "two"}, "Invalid value for '--workers'"),
        ({"config": "/nowhere.toml"}, "config=/nowhere.toml"),
        ({"colour": "red"}, "No such option"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else None,
)
def test_wrong_setting_is_one_line(changed, setting) -> None:
    assert refused(*flags(**changed)).startswith(setting)


def test_port_in_use_is_one_line() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        address = f"127.0.0.1:{s.getsockname()[1]}"
        assert refused(*flags(bind=address)).startswith(f"bind={address}: ")


def test_wrong_password_is_one_line(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path, free_port(), "--requirepass", "right")
    redis.start()
    try:
        url = redis.tcp_url.replace("//", "//:wrong@")
        said = refused(*flags(l2=url))
    finally:
        redis.kill()
    assert "l2" in said and "wrong" not in said.replace("wrong password", "")


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("rediss", "l2: no TLS with what answers there"),
        ("rediss+cluster", "l2: no TLS with what answers there"),
        ("redis+cluster", "l2: a single Redis answers at 127.0.0.1:"),
        ("redis+sentinel", "l2: a single Redis answers at 127.0.0.1:"),
    ],
)
def test_redis_of_another_kind_is_one_line(redis, scheme, words) -> None:
    service = "/main" if scheme.endswith("sentinel") else ""
    said = refused(*flags(l2=f"{scheme}://127.0.0.1:{redis.port}{service}"))
    assert said.startswith(words)


def test_certificate_that_is_not_trusted_is_one_line() -> None:
    with tls_redis() as redis:
        said = refused(*flags(l2=redis.url.partition("?")[0]))
    assert "l2: the certificate of Redis was refused" in said


@pytest.mark.parametrize("right", ["+evalsha", "+info", "+xread", "&shmcache:*"])
def test_missing_right_is_one_line(redis, right) -> None:
    rules = " ".join(rule for rule in ACL_RULES.split() if rule != right)
    add_user(redis, "cache", "hunter2", rules)
    said = refused(*flags(l2=f"redis://cache:hunter2@127.0.0.1:{redis.port}"))
    assert said.startswith("l2: Redis refused") and "hunter2" not in said


def test_file_with_an_unknown_key_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[server]\nworkers = 2\ncolour = 'red'\n")
    assert refused(*flags(config=str(path))).startswith(f"{path}:3: unknown key")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dead_line = 1", "app.settings.dead_line: no such setting"),
        ("deadline = '8'", "app.settings.deadline='8': expected a number"),
        ("vendors.cmc.url = 'x'", "app.settings.vendors.cmc: url='x': expected"),
    ],
)
def test_wrong_setting_of_an_application_is_one_line(tmp_path, line, words) -> None:
    path = tmp_path / "s.toml"
    factory = "shmcache_server.market:application"
    path.write_text(f"[app]\nfactory = '{factory}'\n[app.settings]\n{line}\n")
    given = flags(config=str(path))
    del given[given.index("--origin") : given.index("--origin") + 2]
    assert refused(*given).startswith(words)


def test_gunicorn_says_the_same_of_a_wrong_file(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[origin]\nurl = 'example.com'\n")
    process = python(
        *("-m", "gunicorn", "-c", "deploy/gunicorn.conf.py"),
        env={"SHMCACHE_CONFIG": str(path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert said.startswith(f"shmcache: {path}:2: origin=") and said.count("\n") == 1


@pytest.mark.parametrize("command", [["--help"], ["serve", "--help"]])
def test_help_names_what_there_is(command) -> None:
    said = CliRunner().invoke(commands, command)
    assert said.exit_code == 0 and "serve" in said.output


def test_version_is_the_distributions() -> None:
    process = python(
        *("-m", "shmcache_server", "--version"), stdout=subprocess.PIPE, text=True
    )
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, f"shmcache {version('shmcache')}\n")
    assert "--version" in CliRunner().invoke(commands, ["--help"]).output


def test_every_flag_is_in_the_help() -> None:
    said = CliRunner().invoke(commands, ["serve", "--help"]).output
    for flag in [
        "config",
        "origin",
        "bind",
        "workers",
        "l1-size",
        "l1-name",
        "l1-keep",
        "l1-record-bytes",
        "l2",
        "admin",
    ]:
        assert f"--{flag}" in said


def test_segment_that_does_not_fit_is_told_within_a_second() -> None:
    """One line with the numbers, once Python is up; nothing is left behind."""
    free = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
    said = refused(*flags(l1_size=str(free * 2)))
    assert said.startswith(f"l1_size={free * 2}: a segment of ")
    assert re.search(r"does not fit /dev/shm, which has \d+ bytes free", said)


def test_file_size_limit_is_told() -> None:
    limit = (8 << 20, 8 << 20)
    said = refused(
        *flags(l1_size="64MiB"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert said.startswith(f"l1_size={64 << 20}: ") and f"is {8 << 20} bytes" in said


def test_name_that_is_not_ours_is_told() -> None:
    name = segment_name()
    link = SHM / l1.segment_name(name)
    link.symlink_to("/nowhere")
    try:
        process = python(
            *("-m", "shmcache_server", "serve", *flags(l1_name=name)),
            stderr=subprocess.PIPE,
            text=True,
        )
        _, said = process.communicate(timeout=30)
    finally:
        link.unlink()
    assert process.returncode == 2
    assert said.startswith(
        f"shmcache: l1_name={name}: segment {link}: cannot be opened"
    )
