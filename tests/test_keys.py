"""Keys: what is taken, what is refused, and that namespaces cannot meet."""

import pytest

from shmcache import KeyRejected, keys


@pytest.mark.parametrize("key", ["a", "ä", b"\x00", "x" * 1024])
def test_key_of_legal_size_is_taken(key):
    assert len(keys.to_bytes(key)) >= 1


@pytest.mark.parametrize(
    "key", ["", b"", "x" * 1025, "ä" * 513, 7, None, bytearray(b"a"), "\ud800"]
)
def test_key_of_wrong_form_is_rejected(key):
    with pytest.raises(KeyRejected, match="key"):
        keys.to_bytes(key)


def test_namespace_prefixes_do_not_meet():
    one = keys.prefix("a") + b"b"
    other = keys.prefix("ab") + b""
    assert one != other
    assert not one.startswith(other)


@pytest.mark.parametrize("name", ["", "x" * 65, "a\x1fb", "a\nb"])
def test_namespace_of_wrong_form_is_rejected(name):
    with pytest.raises(KeyRejected, match="namespace"):
        keys.prefix(name)


def test_error_key_differs_by_key_and_from_plain_ones():
    assert keys.error_key(b"a") != keys.error_key(b"b")
    assert keys.error_key(b"a").startswith(b"\x1f\x1f")


def test_plain_key_cannot_reach_into_a_namespace():
    with pytest.raises(KeyRejected, match="namespaces"):
        keys.to_bytes(keys.prefix("users") + b"bob")
    with pytest.raises(KeyRejected, match="namespaces"):
        keys.to_bytes(keys.error_key(b"k"))
    assert keys.within(keys.prefix("users"), b"bob").endswith(b"bob")
    assert keys.within(b"", b"bob") == b"bob"
