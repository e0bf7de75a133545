"""Wanted: the request that is fit to be shared."""

from __future__ import annotations

from multidict import CIMultiDict, CIMultiDictProxy

from shmcache_server.rfc9111.storing import Asked
from shmcache_server.wanted import NOBODY, Wanted

FIELDS = CIMultiDict(
    {
        "Accept": "text/html",
        "Accept-Encoding": "br, gzip",
        "Authorization": "secret",
        "Cache-Control": "max-age=0",
        "Cookie": "a=b",
        "If-None-Match": '"a"',
        "Range": "bytes=0-1",
    }
)


def wanted(asked: Asked = NOBODY, ranges: str | None = None) -> Wanted:
    forwarded = (("X-Forwarded-For", "1.2.3.4"),)
    fields = CIMultiDictProxy(FIELDS)
    return Wanted("key", "key", "/", fields, "z", forwarded, asked, ranges)


def test_nobodys_request_bears_no_credentials_nor_wishes() -> None:
    assert dict(wanted().sent()) == {
        "Accept": "text/html",
        "Accept-Encoding": "gzip",
        "Via": "1.1 shmcache",
        "X-Forwarded-For": "1.2.3.4",
    }


def test_known_clients_request_bears_its_credentials() -> None:
    sent = wanted(Asked(cookie=True)).sent()
    assert (sent["Authorization"], sent["Cookie"]) == ("secret", "a=b")
    assert "If-None-Match" not in sent and "Range" not in sent


def test_part_is_asked_for() -> None:
    asking = wanted(ranges="bytes=0-1").asking()
    assert (asking.method, asking.target) == ("GET", "/")
    assert asking.fields["Range"] == "bytes=0-1"
