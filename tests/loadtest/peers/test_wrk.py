"""What wrk tells."""

from __future__ import annotations

from loadtest.peers.wrk import read

LAST = (
    '{"requests": 100, "seconds": 2.0, "busy": 0.5, "bytes": 9, "p50": 0.7, "p99": 3.3,'
    ' "p999": 5.7, "connect": 0, "read": 1, "write": 0, "status": 0, "timeout": 0}\n'
)


def test_last_line_is_read() -> None:
    found = read("Running 1s test\n" + LAST)
    assert found is not None
    assert found.rate == 50 and found.p999 == 5.7
    assert found.errors == dict(connect=0, read=1, write=0, status=0, timeout=0)


def test_other_words_are_none() -> None:
    assert read("unable to connect to 127.0.0.1:1 Connection refused\n") is None
    assert read("") is None
