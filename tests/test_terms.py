"""What a caller wants of a fill: validated once, remembered, wrong ones named."""

import math
from datetime import timedelta

import pytest

from shmcache import terms
from shmcache.fill import UNSET, Terms
from shmcache.l1 import tag_number


def test_terms_are_made_once():
    asked = {"ttl": 30, "grace": 3.5, "tags": ("a",), "errors": LookupError}
    assert terms.of(**asked) is terms.of(**asked)
    assert terms.of(**asked) == Terms(
        30.0, 3.5, UNSET, (tag_number("a"),), b"", (LookupError,), 1.0
    )


def test_equal_settings_of_other_types_are_not_taken_for_each_other():
    terms.of(1)
    with pytest.raises(ValueError, match="ttl=True"):
        terms.of(True)
    terms.of(1, negative_ttl=1)
    with pytest.raises(ValueError, match="negative_ttl=True"):
        terms.of(1, negative_ttl=True)


@pytest.mark.parametrize(
    "names", [["a", "b"], ("a", "b"), iter("ab"), dict.fromkeys("ab")]
)
def test_tags_may_be_any_iterable_of_names(names):
    assert terms.of(tags=names).tags == (tag_number("a"), tag_number("b"))


def test_tags_that_change_are_not_remembered():
    names = ["a"]
    assert terms.of(tags=names).tags == (tag_number("a"),)
    names[0] = "b"
    assert terms.of(tags=names).tags == (tag_number("b"),)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"ttl": -1}, "ttl=-1"),
        ({"ttl": [1]}, r"ttl=\[1\]"),
        ({"grace": math.nan}, "grace=nan"),
        ({"negative_ttl": timedelta(-1)}, "negative_ttl=-86400"),
        ({"error_ttl": math.inf}, "error_ttl=inf"),
        ({"errors": BaseException}, "errors"),
        ({"errors": ("LookupError",)}, "errors"),
        ({"errors": [LookupError]}, "errors"),
        ({"tags": ["a"] * 33}, "33 tags"),
    ],
)
def test_wrong_wish_is_named(asked, words):
    with pytest.raises(ValueError, match=words):
        terms.of(**asked)
