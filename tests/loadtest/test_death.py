"""A process is killed: when it is no more, and which requests it can have had."""

from __future__ import annotations

import socket
import subprocess

import pytest

from loadtest.death import Ask, Death, kill
from tests.helpers import alive, end, python

SERVER = """
import socket
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
one, _ = s.accept()
print(one.recv(1), flush=True)
s.accept()
"""


def test_killed_process_has_closed_its_sockets() -> None:
    process = python("-c", SERVER, stdout=subprocess.PIPE)
    try:
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as one:
            one.sendall(b"x")
            process.stdout.readline()
            death = kill(process.pid)
            one.setblocking(False)
            assert one.recv(1) == b""
            assert not alive(process.pid) and death.began < death.ended
    finally:
        process.stdout.close()
        process.wait()
        end(process)


@pytest.mark.parametrize(
    ("began", "ended", "lost"),
    [
        (8, 9.9, False),
        (9, 10.1, True),
        (9, 30, True),
        (10.5, 12, True),
        (11.1, 12, False),
    ],
    ids=["answered before", "until then", "throughout", "meanwhile", "after"],
)
def test_requests_under_way_are_those_it_can_have_had(
    began: float, ended: float, lost: bool
) -> None:
    asks = [Ask(began, ended, failed) for failed in (False, True)]
    assert Death(10, 11).under_way(asks) == (asks if lost else [])
