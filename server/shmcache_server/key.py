"""The key of a request, and whether a cache may answer it at all.

{origin}{encoding}{length of host}:{host}{target}: a digest of the configured
origin, a letter for whether the client takes gzip, the host without its port (two
servers of a fleet may listen on different ones, and the origin is not told it),
path and query as they came. No two requests share a key by accident: the length
tells where the host ends. A long key ends in a digest of the whole.

A request that bears credentials (Authorization, or a Cookie) is answered by what
stands under that key, too. Where nothing does, it goes by a key of its own, with
one letter more, so that an answer which is only its client's never has the others
fetch for themselves.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from aiohttp import hdrs
from multidict import CIMultiDictProxy

from .config import Config
from .rfc9111 import vary

KEY_MAX = 1024
_KEY_KEPT = 900
_PREFIX = 17
"""Characters of a key before its host: the digest and the encoding's letter."""
_CREDENTIALED = "c"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]*)(?::[0-9]*)?\Z")
_HOSTS_MAX = 1024

Fields = CIMultiDictProxy[str]


class Refused(Exception):
    """A request that has no key: `status` is 400, or 421 where the host is not ours."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Keys:
    """Those of one origin."""

    def __init__(self, config: Config) -> None:
        self._digest = blake2b(config.origin.base.encode(), digest_size=8).hexdigest()
        self._hosts = frozenset(host.lower() for host in config.server.hosts)
        self._prefixes: dict[tuple[str, str | None], str] = {}

    def of(self, fields: Fields, target: str) -> str:
        """The key of a GET; `Refused`."""
        prefix = self.prefix(fields)
        # aiohttp takes the host of an absolute target over the Host field's: one of
        # the two would be outside the key.
        if target[:1] != "/" or not target.isascii() or "#" in target:
            raise Refused(400, "the target must be a path, in ASCII")
        return _shortened(prefix + target)

    def prefix(self, fields: Fields) -> str:
        """What stands before the target; `Refused`."""
        which = (fields.get(hdrs.HOST, ""), fields.get(hdrs.ACCEPT_ENCODING))
        known = self._prefixes.get(which)
        if known is not None:
            return known
        host = plain_host(which[0])
        if host is None:
            raise Refused(400, "Host is not a host")
        if self._hosts and host not in self._hosts:  # RFC 9110 §15.5.20
            raise Refused(421, "this host is not served here")
        made = f"{self._digest}{vary.letter(which[1])}{len(host)}:{host}"
        if len(self._prefixes) >= _HOSTS_MAX:
            self._prefixes.clear()
        self._prefixes[which] = made
        return made

    def all(self, fields: Fields, target: str) -> list[str]:
        """The keys of a request's URL: either encoding, with credentials or without."""
        host = plain_host(fields.get(hdrs.HOST, "")) or ""
        rest = f"{len(host)}:{host}{target}"
        keys = [_shortened(f"{self._digest}{e}{rest}") for e in vary.LETTERS]
        return keys + [credentialed(key) for key in keys]


def for_a_cache(fields: Fields) -> bool:
    """Whether a GET or HEAD without a body may be answered here: ranges, and
    conditions on the state at the origin, are the origin's to answer."""
    return not (
        hdrs.RANGE in fields
        or hdrs.IF_MATCH in fields
        or hdrs.IF_UNMODIFIED_SINCE in fields
    )


def conditional(fields: Fields) -> bool:
    """Whether the client has a copy, and asks if it still holds."""
    return hdrs.IF_NONE_MATCH in fields or hdrs.IF_MODIFIED_SINCE in fields


def credentialed(key: str) -> str:
    """The key of requests with credentials, beside that of those without."""
    return _shortened(f"{key[:_PREFIX]}{_CREDENTIALED}{key[_PREFIX:]}")


def plain_host(field: str) -> str | None:
    """The host of a Host field in lower case, without its port; None if it is none."""
    match = _HOST.match(field)
    return match[1].lower() if match else None


def _shortened(key: str) -> str:
    """A key that fits. A shortened one holds a `#`, which no target does."""
    if len(key) <= KEY_MAX:
        return key
    digest = blake2b(key.encode(), digest_size=32).hexdigest()
    return f"{key[:_KEY_KEPT]}#{digest}"
