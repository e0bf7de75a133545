"""The demonstration's patience with a server that begins."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from socket import create_server

from loadtest.serve import until_up


def test_listener_that_does_not_answer_yet_is_asked_again() -> None:
    """The kernel takes connections before there is a worker to read them."""
    with (
        create_server(("127.0.0.1", 0)) as listener,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as process,
        ThreadPoolExecutor() as threads,
    ):
        listener.settimeout(10)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/readyz"
        up = threads.submit(until_up, url, process)
        first, _ = listener.accept()
        second, _ = listener.accept()
        second.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert up.result()
        first.close()
        second.close()
        process.communicate()
