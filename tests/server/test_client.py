"""What the command line asks of a running server, and what it says of the answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shmcache import ConfigError
from shmcache_server.cli import commands
from shmcache_server.client import Failed, Server, settings
from tests.helpers import free_port, served

TOKEN = "0123456789abcdef-token"
CONFIRMED = {"confirmed": 2, "hosts": 2, "told": True, "words": "purged"}


class Listener(HTTPServer):
    """Answers as told, and keeps what it was asked."""

    asked: Any = None
    answer: tuple[int, bytes] = (200, b"{}")

    @property
    def at(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Answering(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        listener = self.server
        assert isinstance(listener, Listener)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        listener.asked = (self.path, self.headers["Authorization"], json.loads(body))
        status, answer = listener.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener(("127.0.0.1", 0), _Answering) as listener:
        listener.answer = 200, json.dumps(CONFIRMED).encode()
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        yield listener
        listener.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch) -> None:
    monkeypatch.delenv("SHMCACHE_CONFIG", raising=False)
    monkeypatch.setenv("SHMCACHE_PURGE_TOKEN", TOKEN)


def run(*words: str) -> Result:
    return CliRunner().invoke(commands, ["purge", *words], standalone_mode=False)


def said_by(*words: str) -> str:
    """What is said of wrong use."""
    result = run(*words)
    assert result.exception is not None
    return str(getattr(result.exception, "message", result.exception))


def test_purge_is_asked_as_told(listener) -> None:
    result = run(
        *("http://h/a", "h/b", "--tag", "t", "--prefix", "h/p", "--group", "g"),
        *("--host", "h", "--all", "--soft", "--wait", "0", "--admin", listener.at),
    )
    assert (result.return_value, result.output) == (0, "purged\n")
    assert listener.asked == (
        "/purge",
        f"Bearer {TOKEN}",
        {
            "url": ["http://h/a", "h/b"],
            "tag": ["t"],
            "prefix": ["h/p"],
            "group": ["g"],
            "host": "h",
            "all": True,
            "soft": True,
            "wait": 0.0,
        },
    )


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ({"confirmed": 1, "hosts": 2}, 1),
        ({"confirmed": 1, "hosts": None, "told": False}, 1),
        ({}, 0),
    ],
)
def test_exit_code_says_whether_all_have_confirmed(listener, found, code) -> None:
    listener.answer = 200, json.dumps(CONFIRMED | found).encode()
    result = run("--all", "--json", "--admin", listener.at)
    assert result.return_value == code
    assert json.loads(result.output) == CONFIRMED | found


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, b'{"error": "wrong token"}'), "refused, 401: wrong token"),
        ((400, b'{"error": "no such thing"}'), "refused, 400: no such thing"),
        ((404, b"404: Not Found"), "no answer of ours: no admin listener"),
        ((200, b"[]"), "refused, 200: []"),
        ((200, b'{"status": "ok"}'), "refused, 200: {'status': 'ok'}"),
    ],
)
def test_refusal_is_told(listener, answer, said) -> None:
    listener.answer = answer
    assert said in said_by("--all", "--admin", listener.at)


def test_server_that_is_not_there_is_told() -> None:
    where = f"127.0.0.1:{free_port()}"
    assert said_by("--all", "--admin", where).startswith(f"admin={where}: no answer")


def test_place_and_token_are_those_of_the_servers_file(
    listener, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.delenv("SHMCACHE_PURGE_TOKEN")
    path = tmp_path / "s.toml"
    path.write_text(f"server.admin = '{listener.at}'\npurge.token = '{TOKEN[::-1]}'\n")
    assert run("--all", "--config", str(path)).return_value == 0
    assert listener.asked[1] == f"Bearer {TOKEN[::-1]}"


def test_token_of_a_file_goes_before_all(listener, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("another-token-of-a-file\n")
    run("--all", "--admin", listener.at, "--token-file", str(path))
    assert listener.asked[1] == "Bearer another-token-of-a-file"


@pytest.mark.parametrize("text", ["short", "0123456789abcdef\nof two lines"])
def test_file_that_holds_no_token_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    said = said_by("--all", "--admin", "h:1", "--token-file", str(tmp_path / "token"))
    assert said == "--token-file: token: expected 16 to 256 visible ASCII characters"


def test_missing_place_or_token_is_told(monkeypatch) -> None:
    with pytest.raises(ConfigError, match="admin: not set; give --admin"):
        settings(None, None, None)
    with pytest.raises(ConfigError, match="admin='there': expected HOST:PORT"):
        settings(None, "there", None)
    with pytest.raises(ConfigError, match="token_file=/nowhere: cannot be read"):
        settings(None, "127.0.0.1:1", "/nowhere")
    monkeypatch.delenv("SHMCACHE_PURGE_TOKEN")
    with pytest.raises(ConfigError, match="token: not set; give --token-file"):
        settings(None, "127.0.0.1:1", None)


def test_command_purges_a_running_server(tmp_path: Path) -> None:
    port = free_port()
    flags = ("--admin", f"127.0.0.1:{port}")
    with served(tmp_path / "log", "http://127.0.0.1:1", flags=flags):
        result = run("http://h/a", "--admin", f"127.0.0.1:{port}")
        assert (result.return_value, result.output) == (0, "purged on 1 of 1 hosts\n")
        with pytest.raises(Failed, match="refused, 401: Authorization"):
            Server("127.0.0.1", port, "wrong").purge({"all": True})
        said = said_by("/a", "--admin", f"127.0.0.1:{port}")
        assert said.startswith("refused, 400: '/a': expected a URL, as http")
