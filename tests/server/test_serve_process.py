"""The server as processes: started both ways, shared by workers, stopped and killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmcache_server.arbiter import segment_name as segment_name_of
from tests.helpers import (
    SHM,
    Server,
    alive,
    attached,
    children,
    connections,
    descendants,
    end,
    free_port,
    get,
    python,
    segment_name,
    served,
    shm_names,
    until,
)

PATH = "/prices.json?delay=0&max_age=60"


class Origin:
    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def count(self, path: str = PATH) -> int:
        return json.loads(get(self.port, "/__count").body)["paths"].get(path, 0)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    origin = Origin(free_port())
    process = python("loadtest/origin.py", "--bind", f"127.0.0.1:{origin.port}")
    until(lambda: answers(origin.port, "/__count"), 20, "the origin")
    yield origin
    end(process)


def answers(port: int, path: str) -> bool:
    try:
        return get(port, path, timeout=1).status == 200
    except OSError:
        return False


def test_hit_is_seen_by_every_worker(tmp_path, origin) -> None:
    path = PATH + "&seen"
    with served(tmp_path / "log", origin.url) as server:
        first = server.get(path)
        assert first.cache_status == "shmcache; fwd=miss; stored"
        workers: set[int] = set()

        def all_seen() -> bool:
            answer = server.get(path)
            assert answer.hit and answer.body == first.body
            return len(_serving(server, path, workers)) == 2

        until(all_seen, 10, "a hit from each worker")
    log = (tmp_path / "log").read_text()
    assert "L2 none (as configured)" in log and "Traceback" not in log


def _serving(server: Server, path: str, workers: set[int]) -> set[int]:
    """Add the worker that a kept connection reached, and got its hit from."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    assert "; hit" in answer.headers["Cache-Status"]
    near = connection.sock.getsockname()[1]
    for pid in server.pids():
        if near in connections(pid, local=server.port):
            workers.add(pid)
    connection.close()
    return workers


def test_burst_of_connections_waits_for_a_busy_worker(tmp_path, origin) -> None:
    """A shorter queue would drop some, which come again a second later."""
    count, path = 500, PATH + "&burst"
    with served(tmp_path / "log", origin.url, workers=1) as server:
        server.warm(path)
        (worker,) = server.pids()
        os.kill(worker, signal.SIGSTOP)
        try:
            with contextlib.ExitStack() as stack:
                waiting = [
                    stack.enter_context(
                        socket.create_connection(("127.0.0.1", server.port), timeout=5)
                    )
                    for _ in range(count)
                ]
                os.kill(worker, signal.SIGCONT)
                for client in waiting:
                    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                for client in waiting:
                    assert client.recv(12) == b"HTTP/1.1 200"
        finally:
            os.kill(worker, signal.SIGCONT)


def test_gunicorn_runs_the_same_server(tmp_path, origin) -> None:
    port, toml, name = free_port(), tmp_path / "s.toml", segment_name()
    toml.write_text(
        f'[server]\nbind = "127.0.0.1:{port}"\n[origin]\nurl = "{origin.url}"\n'
        f'[l1]\nname = "{name}"\n[l2]\nurl = "embedded"\n'
    )
    with (tmp_path / "log").open("w") as out:
        process = python(
            *("-m", "gunicorn", "-c", "deploy/gunicorn.conf.py"),
            env={"SHMCACHE_CONFIG": str(toml)},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: answers(port, "/readyz"), 20, (tmp_path / "log").read_text())
        assert get(port, PATH + "&gunicorn").status == 200
        until(lambda: get(port, PATH + "&gunicorn").hit, 5)
        (keeper,) = keepers(process.pid)
        os.kill(keeper, signal.SIGKILL)
        until(lambda: keepers(process.pid) not in ([], [keeper]), 10, "a new keeper")
        assert "started again" in (tmp_path / "log").read_text()
        family = descendants(process.pid)
        assert shm_names(name)
    finally:
        assert end(process) == 0
    assert not any(map(alive, family)) and not shm_names(name)


def keepers(master: int) -> list[int]:
    """The keepers of an embedded redis-server whose redis-server runs."""

    def name(pid: int) -> str:
        return Path(f"/proc/{pid}/comm").read_text()

    return [p for p in children(master) if "keeper" in name(p) and children(p)]


def test_reload_keeps_what_is_cached(tmp_path, origin) -> None:
    path = PATH + "&reload"
    with served(tmp_path / "log", origin.url) as server:
        server.get(path)
        old = server.pids()
        os.kill(server.process.pid, signal.SIGHUP)
        until(
            lambda: len(server.pids()) == 2 and not set(old) & set(server.pids()),
            15,
            "new workers",
        )
        until(lambda: answers(server.port, "/readyz"), 5)
        assert server.get(path).hit
        assert origin.count(path) == 1


def market(port: int, name: str, more: str) -> str:
    """The settings of a market service; nobody asks it for figures."""
    return (
        f'[server]\nbind = "127.0.0.1:{port}"\nworkers = 2\n[l1]\nname = "{name}"\n'
        '[app]\nfactory = "shmcache_server.market:application"\n'
        f"[app.settings]\n{more}\n"
    )


@pytest.mark.parametrize("how", ["shmcache", "gunicorn"])
def test_reload_of_wrong_settings_leaves_the_workers(tmp_path, how) -> None:
    port, name, path = free_port(), segment_name(), tmp_path / "s.toml"
    words = {
        "shmcache": ("shmcache_server", "serve", "--config", str(path)),
        "gunicorn": ("gunicorn", "-c", "deploy/gunicorn.conf.py"),
    }
    path.write_text(market(port, name, ""))
    env = {"SHMCACHE_CONFIG": str(path), "TAAPI_KEY": "", "CMC_API_KEY": "abc"}
    with (tmp_path / "log").open("w") as out:
        process = python(
            *("-m", *words[how]), env=env, stdout=out, stderr=subprocess.STDOUT
        )

    def log() -> str:
        return (tmp_path / "log").read_text()

    try:
        until(lambda: answers(port, "/readyz") and attached(name) == 2, 20, log())
        assert log().count("TAAPI_KEY is not set") == 1 and "CMC_API_KEY" not in log()
        old = children(process.pid)
        for wrong in ("deadline = '8'", "deadline = ["):
            before = log()
            path.write_text(market(port, name, wrong))
            os.kill(process.pid, signal.SIGHUP)
            until(lambda seen=before: "stay as they are" in log()[len(seen) :], 10)
            said = log()[len(before) :]
            assert said.count("[ERROR] reload: ") == 1 and "Traceback" not in said
            assert "app.settings.deadline='8'" in said or f"{path}:" in said
            assert children(process.pid) == old and answers(port, "/readyz")
        path.write_text(market(port, name, "deadline = 7"))
        os.kill(process.pid, signal.SIGHUP)
        until(lambda: not {*old} & {*children(process.pid)}, 15, "new workers")
    finally:
        assert end(process) == 0
        for left in shm_names(name):
            (SHM / left).unlink()


def test_redis_that_is_down_at_the_start_is_no_error(tmp_path, origin) -> None:
    url = f"unix://{tmp_path}/nobody.sock?password=hunter2"
    with served(tmp_path / "log", origin.url, l2=url) as server:
        assert server.get(PATH + "&down").status == 200
        until(lambda: server.get(PATH + "&down").hit, 5)
    log = (tmp_path / "log").read_text()
    assert f"L2 unix://{tmp_path}/nobody.sock (" in log and "hunter2" not in log


def test_killed_embedded_redis_costs_no_request(tmp_path, origin) -> None:
    with served(tmp_path / "log", origin.url, l2="embedded") as server:
        redis = _redis_of(server)
        assert len(redis) == 2, "the keeper and redis-server"
        os.kill(redis[-1], signal.SIGKILL)
        for n in range(20):
            assert server.get(f"{PATH}&killed={n}").status == 200
        until(lambda: len(_redis_of(server)) == 2, 5, "a new redis-server")


def _redis_of(server: Server) -> list[int]:
    """The keeper and its redis-server."""
    return [p for p in descendants(server.process.pid) if "redis" in _comm(p)]


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def test_killed_master_leaves_no_process_and_no_segment(tmp_path, origin) -> None:
    server = Server(origin.url, workers=1, l2="embedded")
    server.start(tmp_path / "log")
    server.get(PATH)
    family = descendants(server.process.pid)
    assert len(family) == 3
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    until(lambda: not any(map(alive, family)), 10, "nothing left")
    left = shm_names(server.name)
    assert not left, "the last worker to leave removes the segment"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_demonstration_stops_cleanly(tmp_path, origin, how) -> None:
    port = free_port()
    name = segment_name_of(("127.0.0.1", port))
    with (tmp_path / "log").open("w") as out:
        process = python(
            *("loadtest/serve.py", "--origin", origin.url),
            *("--bind", f"127.0.0.1:{port}"),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: "curl" in (tmp_path / "log").read_text(), 20, "what to try")
        until(lambda: len(descendants(process.pid)) == 5, 5, "two workers")
        family = descendants(process.pid)
        assert shm_names(name)
        process.send_signal(how)
        assert process.wait(10) == 0
    finally:
        end(process)
    assert not any(map(alive, family)) and not shm_names(name)
