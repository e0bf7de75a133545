from __future__ import annotations

import pytest

from shmcache_server.rfc9111.vary import asked, letter, shareable


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ([], True),
        (["Accept-Encoding"], True),
        (["accept-encoding, ACCEPT-ENCODING"], True),
        (["Accept-Encoding, Cookie"], False),
        (["Accept-Encoding", "Origin"], False),
        (["*"], False),
        (["Accept-Encoding, *"], False),
    ],
)
def test_vary_by_encoding_alone_is_shared(fields, may) -> None:
    assert shareable(fields) is may


@pytest.mark.parametrize(
    ("accept", "which"),
    [
        (None, "i"),
        ("", "i"),
        ("identity", "i"),
        ("gzip", "z"),
        ("GZIP ; q=0.1", "z"),
        ("x-gzip", "z"),
        ("br, gzip;q=0.5", "z"),
        ("gzip;q=0", "i"),
        ("gzip;q=0, *", "i"),
        ("*", "z"),
        ("*;q=0", "i"),
        ("gzip;q=x", "i"),
        ("gzipped", "i"),
    ],
)
def test_letter_tells_whether_gzip_is_taken(accept, which) -> None:
    assert letter(accept) == which


def test_origin_is_asked_for_what_the_letter_says() -> None:
    assert (asked("z"), asked("i")) == ("gzip", "identity")
