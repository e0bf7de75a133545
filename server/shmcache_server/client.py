"""Client: what the command line asks of a running server's admin listener."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from typing import Any

from shmcache import ConfigError

from .addresses import parse_address
from .config import read, token_in
from .tables import PurgeConfig

_PATIENCE = 65.0
"""Seconds; a purge waits for 60 at most."""


class Failed(Exception):
    """The server cannot be reached, or refused; the words say why."""


def settings(path: str | None, admin: str | None, token_file: str | None) -> Server:
    """Where the admin listener is, and the token; `ConfigError`."""
    config = read(path)
    token = _token_in(token_file) if token_file else config.purge.token
    where = admin or config.server.admin
    if not where:
        raise ConfigError(
            "admin: not set; give --admin HOST:PORT, or --config FILE of a server that "
            "has one"
        )
    if not token:
        raise ConfigError(
            "token: not set; give --token-file FILE, --config FILE of a server that "
            "has one, or SHMCACHE_PURGE_TOKEN"
        )
    return Server(*parse_address(where, "admin"), token)


def _token_in(path: str) -> str:
    try:
        return PurgeConfig(token=token_in(path)).token
    except ConfigError as e:
        raise ConfigError(f"--token-file: {e}") from None


class Server:
    """A running one."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._at = host, port
        self._token = token

    def purge(self, said: dict[str, Any]) -> dict[str, Any]:
        """What it answers; `Failed`."""
        connection = HTTPConnection(*self._at, timeout=_PATIENCE)
        fields = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
        }
        try:
            connection.request("POST", "/purge", json.dumps(said), fields)
            answer = connection.getresponse()
            status, document = answer.status, json.loads(answer.read())
        except (OSError, HTTPException, ValueError) as e:
            host, port = self._at
            words = "no admin listener" if isinstance(e, ValueError) else e
            raise Failed(f"admin={host}:{port}: no answer of ours: {words}") from None
        finally:
            connection.close()
        found = document if isinstance(document, dict) else {}
        if status == 200 and found.keys() >= {"confirmed", "hosts", "words"}:
            return found
        raise Failed(f"refused, {status}: {found.get('error', document)}")
