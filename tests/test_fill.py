"""What a compute returned, and the record that it makes."""

import msgpack
import pytest

from shmcache import CodecError, Fill
from shmcache.codec import MSGPACK
from shmcache.fill import UNSET, Life, Terms, life, pass_mark, to_record, wrap
from shmcache.record import DEAD, FOREVER, FRESH, PASS, STALE

S = 1_000_000_000


def make(fill, terms, now=100 * S):
    lives = life(fill, terms)
    return to_record(fill, lives, MSGPACK, now=now, stamp=3, nonce=7)


def test_bare_value_is_filled_on_the_callers_terms():
    record = make(wrap([1]), Terms(10.0, 5.0))
    assert msgpack.unpackb(record.value) == [1]
    assert (record.birth, record.fresh_until, record.dead_at) == (
        100 * S,
        110 * S,
        115 * S,
    )
    assert (record.stamp, record.nonce, record.state) == (3, 7, FRESH)


def test_fill_overrides_the_callers_ttl_and_grace():
    assert life(Fill(1, ttl=2, grace=None), Terms(10.0, 5.0)) == Life(2.0, None)


def test_absent_value_takes_the_negative_ttl():
    terms = Terms(10.0, 5.0, negative_ttl=1.0)
    assert life(wrap(None), terms) == Life(1.0, 0.0)
    assert life(wrap(0), terms) == Life(10.0, 5.0)
    assert life(wrap(None), Terms(10.0, 5.0, UNSET)) == Life(10.0, 5.0)


@pytest.mark.parametrize(
    ("age", "state"), [(0.0, FRESH), (9.9, FRESH), (10.0, STALE), (15.0, DEAD)]
)
def test_age_counts_against_the_life(age, state):
    assert make(Fill("v", age=age), Terms(10.0, 5.0)).state == state


def test_ttl_of_none_never_ends():
    record = make(wrap(1), Terms(None))
    assert record.fresh_until == record.dead_at == FOREVER


@pytest.mark.parametrize(("ttl", "stored"), [(0.0, False), (0.1, True), (None, True)])
def test_ttl_of_nothing_is_not_stored(ttl, stored):
    assert Life(ttl, 0.0).stored is stored


def test_value_that_cannot_be_encoded_names_its_type():
    with pytest.raises(CodecError, match="object"):
        make(wrap(object()), Terms(1.0))


def test_pass_mark_is_short_and_no_value():
    mark = pass_mark(now=0, stamp=1, nonce=1)
    assert mark.kind == PASS
    assert mark.dead_at == 2 * S


@pytest.mark.parametrize("age", [-1.0, float("nan"), float("inf")])
def test_age_of_wrong_form_is_named(age):
    with pytest.raises(ValueError, match="age="):
        make(Fill("v", age=age), Terms(1.0))


def test_age_beyond_any_life_is_dead():
    assert make(Fill("v", age=1e300), Terms(1.0)).state == DEAD
