"""Traces: what is read, and what is refused by its line."""

import lzma

import pytest

from loadtest.traces import TraceError, read


def written(tmp_path, text, name="t.csv.xz"):
    path = tmp_path / name
    path.write_bytes(lzma.compress(text.encode()))
    return path


def test_trace_is_read_in_order_and_size_1_is_a_unit(tmp_path):
    trace = read(written(tmp_path, "key,size\na,1\nb,70\na,1\n"), unit=300)
    assert trace.name == "t"
    assert trace.keys == [b"a", b"b", b"a"]
    assert trace.sizes == [300, 70, 300]
    assert trace.distinct_bytes == 370


def test_distinct_bytes_count_each_keys_last_size(tmp_path):
    trace = read(written(tmp_path, "key,size\na,10\na,20\nb,5\n"), unit=300)
    assert trace.distinct == {b"a": 20, b"b": 5}


def test_next_uses_name_the_following_request_for_the_key(tmp_path):
    trace = read(written(tmp_path, "key,size\na,9\nb,9\na,9\na,9\n"), unit=300)
    assert trace.next_uses(never=99) == [2, 99, 3, 99]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("a,1\n", 1),
        ("key,size\na,1\nb\n", 3),
        ("key,size\na,1\nb,x\n", 3),
        ("key,size\n,5\n", 2),
        ("key,size\na,0\n", 2),
        ("key,size\na,-4\n", 2),
        ("key,size\na,5\n\nb,5\n", 3),
        ("key,size\na,99999999999\n", 2),
        (f"key,size\n{'k' * 1025},5\n", 2),
    ],
)
def test_malformed_line_is_named(tmp_path, text, line):
    path = written(tmp_path, text)
    with pytest.raises(TraceError, match=rf"t\.csv\.xz: line {line}: "):
        read(path, unit=300)


def test_trace_without_a_request_is_refused(tmp_path):
    with pytest.raises(TraceError, match="no request"):
        read(written(tmp_path, "key,size\n"), unit=300)


def test_file_that_is_missing_or_not_whole_is_refused(tmp_path):
    with pytest.raises(TraceError, match="No such file"):
        read(tmp_path / "none.csv.xz", unit=300)
    plain = tmp_path / "plain.csv.xz"
    plain.write_text("key,size\na,1\n")
    with pytest.raises(TraceError, match="not a whole xz file"):
        read(plain, unit=300)
    cut = written(tmp_path, "key,size\n" + "a,1\n" * 9999)
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(TraceError, match="not a whole xz file"):
        read(cut, unit=300)
