"""The error tree: one base, and the standard classes that users catch."""

import pytest

from shmcache import errors


@pytest.mark.parametrize("name", errors.__all__)
def test_error_stands_in_the_tree(name):
    assert issubclass(getattr(errors, name), errors.CacheError)
    assert name in (errors.__doc__ or "")


def test_failure_elsewhere_tells_kind_and_message():
    error = errors.ComputeFailed("OriginError", "refused")
    assert (error.kind, error.message) == ("OriginError", "refused")
    assert str(error) == "OriginError: refused"
