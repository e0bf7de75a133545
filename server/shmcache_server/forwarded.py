"""What the origin is told of who asks, and for what; and what of it is believed.

    of one hop       removed: RFC 9110 §7.6.1
    URL, host, scheme, client, method
                     removed: frameworks take them from fields that are in no key, and
                     an answer to such a one would be everybody's
    X-Forwarded-For, -Host, -Proto
                     written by us; those of a trusted peer count: its -For is gone on
                     with, its -Host and -Proto are believed, and are in the key
    all others       sent as they came

Of a list a trusted peer wrote the last member; those before it, its own client may
have written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy

from .rfc9111.fields import HOP_BY_HOP, of_connection

VIA = "1.1 shmcache"
UNKEYED = frozenset(
    {
        "base-url",
        "cf-connecting-ip",
        "cf-visitor",
        "client-ip",
        "cloudfront-forwarded-proto",
        "fastly-client-ip",
        "fastly-ssl",
        "forwarded",
        "front-end-https",
        "path-info",
        "proxy",
        "proxy-client-ip",
        "proxy-host",
        "remote-user",
        "request-uri",
        "script-name",
        "ssl-client-cert",
        "true-client-ip",
        "wl-proxy-client-ip",
        "x-accel-redirect",
        "x-arr-ssl",
        "x-azure-clientip",
        "x-backend-host",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-host",
        "x-http-host-override",
        "x-http-method",
        "x-http-method-override",
        "x-http-path-override",
        "x-ingress-path",
        "x-invoke-path",
        "x-matched-path",
        "x-method",
        "x-method-override",
        "x-middleware-subrequest",
        "x-now-route-matches",
        "x-original-host",
        "x-original-method",
        "x-original-uri",
        "x-original-url",
        "x-originating-ip",
        "x-override-url",
        "x-proxy-host",
        "x-proxy-url",
        "x-proxyuser-ip",
        "x-real-ip",
        "x-remote-ip",
        "x-remote-user",
        "x-replaced-path",
        "x-request-uri",
        "x-rewrite-url",
        "x-scheme",
        "x-script-name",
        "x-server-name",
        "x-url-scheme",
    }
)
"""What frameworks take for URL, host, scheme, client or method of a request;
`-` stands for whatever else is no letter or digit, which not all tell apart."""
UNKEYED_FAMILIES = ("x-forwarded", "x-envoy-", "x-appengine-")
CONDITIONS = frozenset(
    {
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
    }
)
OURS = frozenset({"accept-encoding", "content-length", "expect", "host", "via"})
"""Written by us."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]*)(?::[0-9]*)?\Z")
_MARK = re.compile(r"[^a-z0-9-]")
_SCHEMES = frozenset({"http", "https"})
_PEERS_MAX = 1024

Fields = CIMultiDictProxy[str]


class Believed(NamedTuple):
    """What a request is for, by what a trusted peer says or by the request itself."""

    host: str
    """As a Host field."""
    scheme: str
    """Empty: it says nothing of it."""


class Forwarding:
    """The operator's choices: more fields to be removed, peers to be believed."""

    def __init__(
        self, removed: Iterable[str] = (), trusted_peers: Iterable[str] = ()
    ) -> None:
        """`trusted_peers`: addresses and networks, as 10.0.0.0/8."""
        self.removed = frozenset(plain(name) for name in removed)
        self._networks = tuple(ip_network(peer) for peer in trusted_peers)
        self._trusted: dict[str, bool] = {}

    @property
    def believes(self) -> bool:
        """Whether there is any peer to be believed."""
        return bool(self._networks)

    def trusts(self, remote: str | None) -> bool:
        """Whether the peer at this address is believed."""
        if not self._networks or not remote:
            return False
        known = self._trusted.get(remote)
        if known is None:
            if len(self._trusted) >= _PEERS_MAX:
                self._trusted.clear()
            known = self._trusted[remote] = self._contain(remote)
        return known

    def fields(
        self, fields: Fields, drop: frozenset[str] = frozenset()
    ) -> CIMultiDict[str]:
        """`request_fields`, less the operator's own."""
        if self.removed:
            drop = drop | self.removed
        return request_fields(fields, drop=drop)

    def asked(self, fields: Fields, remote: str | None, scheme: str) -> Believed:
        """Host and scheme that a request of the peer at `remote`, which came by
        `scheme`, is for."""
        if not self.trusts(remote):
            return Believed(fields.get("Host", ""), scheme)
        host, told = believed(fields)
        return Believed(host, told or scheme)

    def written(
        self, fields: Fields, remote: str | None, scheme: str
    ) -> tuple[tuple[str, str], ...]:
        """Whom we ask for, at `remote`, who asked by `scheme`. The host is without its
        port, which is not in the key."""
        client = remote or "unknown"
        if self.trusts(remote):
            client = ", ".join([*fields.getall("X-Forwarded-For", ()), client])
        host, scheme = self.asked(fields, remote, scheme)
        return (
            ("X-Forwarded-For", client),
            ("X-Forwarded-Host", plain_host(host) or ""),
            ("X-Forwarded-Proto", scheme),
        )

    def _contain(self, remote: str) -> bool:
        try:
            address = ip_address(remote)
        except ValueError:  # a socket's path
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def believed(fields: Fields) -> Believed:
    """What these fields of a trusted peer say."""
    scheme = _last(fields, "X-Forwarded-Proto").lower()
    return Believed(
        host=_last(fields, "X-Forwarded-Host") or fields.get("Host", ""),
        scheme=scheme if scheme in _SCHEMES else "",
    )


def request_fields(
    fields: Fields, *, drop: frozenset[str] = frozenset()
) -> CIMultiDict[str]:
    """A client's end-to-end fields, less those of the key and of `drop`; Via added."""
    gone = _not_sent(drop)
    if "Connection" in fields:
        gone = gone | of_connection(fields.getall("Connection"))
    sent = CIMultiDict((n, v) for n, v in fields.items() if not _dropped(n, gone))
    sent["Via"] = ", ".join([*fields.getall("Via", ()), VIA])
    return sent


def unkeyed(name: str) -> bool:
    """Whether a field of this name is never sent as it came, of whatever request."""
    lower, spelled, family = _spelled(name)
    gone = _not_sent(CONDITIONS)
    return family or lower in gone or spelled in gone


def plain(name: str) -> str:
    """A field's name in lower case, `-` for what is no letter or digit: frameworks
    and servers make one of all of these."""
    return _spelled(name)[1]


def plain_host(field: str) -> str | None:
    """The host of a Host field in lower case, without its port; None if it is none."""
    match = _HOST.match(field)
    return match[1].lower() if match else None


def _last(fields: Fields, name: str) -> str:
    lines = fields.getall(name, None)
    return lines[-1].rpartition(",")[2].strip(" \t") if lines else ""


@lru_cache(64)
def _not_sent(drop: frozenset[str]) -> frozenset[str]:
    return HOP_BY_HOP | UNKEYED | OURS | drop


def _dropped(name: str, gone: frozenset[str]) -> bool:
    lower, spelled, family = _spelled(name)
    return family or lower in gone or spelled in gone


@lru_cache(1024)
def _spelled(name: str) -> tuple[str, str, bool]:
    """In lower case, with `-` for `_` and its like, and whether its family is not in
    the key."""
    lower = name.lower()
    spelled = _MARK.sub("-", lower)
    return lower, spelled, spelled.startswith(UNKEYED_FAMILIES)
