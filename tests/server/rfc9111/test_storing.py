from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmcache_server.rfc9111.directives import parse
from shmcache_server.rfc9111.freshness import lifetime
from shmcache_server.rfc9111.storing import (
    ONE_REQUESTS,
    Answered,
    Asked,
    Policy,
    Shared,
    share,
)

POLICY = Policy()
COOKIE = Asked(cookie=True)


def answered(said: str, status: int = 200) -> Answered:
    directives = parse([said])
    return Answered(status, directives, lifetime(directives, None, None, 0))


@pytest.mark.parametrize("status", [203, 301, 404])
def test_default_ttl_is_for_200_alone(status) -> None:
    policy = Policy(default_ttl=5)
    assert share(Asked(), answered("", status), policy) is None
    assert share(Asked(), answered(""), policy) == Shared(5)


@pytest.mark.parametrize("said", ["", "public"])
def test_nothing_said_of_freshness_stores_nothing(said) -> None:
    assert share(Asked(), answered(said), POLICY) is None


def test_own_cookie_or_vary_is_not_shared() -> None:
    fresh = answered("public, max-age=9")
    assert share(Asked(), replace(fresh, set_cookie=True), POLICY) is None
    assert share(Asked(), replace(fresh, vary_shareable=False), POLICY) is None


@pytest.mark.parametrize(
    ("said", "authorization", "cookie"),
    [
        ("max-age=9", None, None),
        ("max-age=9, public", 9, 9),
        ("s-maxage=9", 9, 9),
        ("max-age=9, must-revalidate", 9, None),
    ],
)
def test_request_of_a_known_client(said, authorization, cookie) -> None:
    for asked, ttl in ((Asked(authorization=True), authorization), (COOKIE, cookie)):
        found = share(asked, answered(said), POLICY)
        assert found == (Shared(ttl) if ttl else None)


def test_request_that_says_no_store() -> None:
    assert share(Asked(no_store=True), answered("public, max-age=9"), POLICY) is None


@pytest.mark.parametrize(
    "status", [*(200, 203, 204, 299, 301, 302, 303), 307, 308, 404]
)
def test_final_status_with_freshness_is_shared(status) -> None:
    assert share(Asked(), answered("max-age=99", status), POLICY) == Shared(99)


@pytest.mark.parametrize("status", [400, 403, 405, 414, 499, 500, 501, 503, 599])
def test_error_that_a_request_may_cause_is_shared_for_seconds(status) -> None:
    assert share(Asked(), answered("max-age=99", status), POLICY) == Shared(10)
    assert share(Asked(), answered("max-age=9", status), POLICY) == Shared(9)
    assert share(Asked(), answered("max-age=9", status), Policy(error_most=0)) is None


@pytest.mark.parametrize("status", [100, 103, *ONE_REQUESTS])
def test_answer_to_one_request_is_not(status) -> None:
    assert share(Asked(), answered("max-age=9, public", status), POLICY) is None


@pytest.mark.parametrize(
    ("said", "status", "may"),
    [
        ("max-age=9, must-understand", 599, False),
        ("max-age=9, must-understand, no-store", 599, False),
        ("max-age=9, must-understand", 200, True),
        ("max-age=9, must-understand, no-store", 200, True),
        ("max-age=9, no-store", 200, False),
        ("max-age=9, must-understand, private", 200, False),
    ],
)
def test_must_understand_outranks_no_store(said, status, may) -> None:
    found = share(Asked(), answered(said, status), POLICY)
    assert (found is not None) is may


@pytest.mark.parametrize(
    ("said", "validator", "found"),
    [
        ("no-cache, max-age=9", True, Shared(0)),
        ("no-cache, max-age=9", False, None),
        ("max-age=0", True, Shared(0)),
        ("max-age=0", False, None),
        ("", True, Shared(0)),
        ("", False, None),
    ],
)
def test_what_is_never_fresh_needs_a_validator(said, validator, found) -> None:
    told = replace(answered(said), validator=validator)
    assert share(Asked(), told, POLICY) == found


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('private="a", max-age=9', Shared(9, frozenset({"a"}))),
        ('private="a", no-cache="B", max-age=9', Shared(9, frozenset({"a", "b"}))),
        ('private="a", private, max-age=9', None),
        ('private="", private="a", max-age=9', None),
        ('private="vary", max-age=9', None),
        ('no-cache="a, Content-Type", max-age=9', None),
        ("private, max-age=9", None),
        ("max-age=9; private", None),
    ],
)
def test_named_fields_are_dropped_and_the_rest_shared(said, found) -> None:
    assert share(Asked(), answered(said), POLICY) == found


@pytest.mark.parametrize(
    ("method", "of_target", "said", "may"),
    [
        ("GET", False, "max-age=9", True),
        ("HEAD", True, "max-age=9", False),
        ("PUT", True, "max-age=9", False),
        ("POST", True, "max-age=9", True),
        ("POST", False, "max-age=9", False),
        ("POST", True, "", False),
    ],
)
def test_post_is_shared_if_it_is_what_get_gets(method, of_target, said, may) -> None:
    told = replace(answered(said), of_target=of_target, heuristic=9, validator=True)
    assert (share(Asked(method=method), told, POLICY) is not None) is may


def test_guess_is_taken_where_nothing_is_said() -> None:
    guessed = replace(answered(""), heuristic=8)
    assert share(Asked(), guessed, POLICY) == Shared(8)
    assert share(Asked(), replace(guessed, status=405), POLICY) == Shared(8)
    assert share(Asked(), guessed, Policy(heuristics=False)) is None
    assert share(Asked(), guessed, Policy(5, heuristics=False)) == Shared(5)
    assert share(Asked(), answered(""), Policy(5)) == Shared(5)
    assert share(Asked(), answered("", 301), Policy(5)) is None
    assert share(
        Asked(), replace(answered("max-age=1"), heuristic=8), POLICY
    ) == Shared(1)


SAID = st.lists(
    st.sampled_from(
        [
            *("private", 'private="a"', "no-store", "no-cache", "must-understand"),
            *("public", "s-maxage=9", "max-age=9", "max-age=0", "must-revalidate"),
            *('private=""', "private=(", "proxy-revalidate", 'no-cache="set-cookie"'),
            *("PRIVATE", 'x="private"', "max-age=9 private", "=private"),
        ]
    )
)


@given(
    lines=st.lists(SAID),
    asked=st.builds(
        Asked,
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["GET", "HEAD", "POST", "DELETE"]),
    ),
    status=st.integers(100, 599),
    flags=st.tuples(*[st.booleans()] * 4),
    guess=st.none() | st.integers(0, 99),
)
def test_private_answer_is_never_shared(lines, asked, status, flags, guess) -> None:
    said = parse([", ".join(line) for line in lines])
    set_cookie, comparable, validator, of_target = flags
    told = Answered(
        status,
        said,
        lifetime(said, None, None, 0),
        set_cookie,
        comparable,
        guess,
        validator,
        of_target,
    )
    found = share(asked, told, Policy(5))
    if found is None:
        return
    directives = {part.lower() for line in lines for part in line}
    assert not directives & {"private", 'private=""', "private=(", "max-age=9 private"}
    assert not set_cookie and comparable and not asked.no_store
    assert "no-store" not in said or "must-understand" in said
    for_all = {"public", "s-maxage"} & said.keys()
    assert for_all or not asked.cookie
    assert for_all or "must-revalidate" in said or not asked.authorization
    assert ("private" in said) <= ("a" in found.drop)
    assert found.lifetime > 0 or validator
    assert "no-cache" not in directives or found.lifetime == 0
