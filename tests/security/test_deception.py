"""Cache deception (T3): no two spellings of a path are one, and no path is static.

An origin that sees through a spelling answers `/account` for all of these, in the name
of who asks. Whoever asks for a like path, or without the credentials, is not to get it.
"""

from __future__ import annotations

import itertools

import pytest

from tests.security.client import Client, get
from tests.security.conftest import Front
from tests.security.origin import said

_SPELLED = r"""
    /account /account/ /account/x.css /account;.css /account;x=y.css /account.css
    /account%00.js /account%0a.js /account%0d%0a.js /account%09.js /account%2fx.css
    /account%2Fx.css /account%252fx.css /account%5cx.css /account/..%2fstatic/x.css
    /account/%2e%2e/static/x.css /static/../account /static/..%2faccount
    /static/%2e%2e/account /static/x.css/../../account //account ///account
    /./account /%2e/account /account/. /.//account /account/.. /account//x.css
    /account\x.css /account/..\static /Account /ACCOUNT /accoun%74 /accoun%54
    /%61ccount /%41ccount /account%3fx.css /account?x.css /account? /account?x=.css
    /account%3F /account%23x.css /account%26x.css /account&x.css /account!.css
    /account~.css /account%7e.css /account$.css /account@.css /account:.css
    /account,x.css /account%20.css /account+.css /account|.css /account%.js
    /account%c0%af.css /account%ff.js /account%e2%80%8b.js /robots.txt;/account
"""
SPELLINGS = _SPELLED.split()
REFUSED = [
    *(b"/account#x.css", b"/account .css", b"/account\t.css", b"/account\0.js"),
    *(b"/account\xff.js", b"account", b"*", b"/account\r.css", b"?/account"),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spelling_reaches_the_origin_as_it_came(front, path, spelling) -> None:
    front.get(path + spelling)
    assert front.origin.targets() == [path + spelling]


def test_spellings_are_never_merged(front, path) -> None:
    """Each is asked for, and answered with its own, by either lane."""
    front.origin.answer = lambda asked: said(asked.target)
    assert len(set(SPELLINGS)) == len(SPELLINGS)
    for _, spelling in itertools.product(range(2), SPELLINGS):
        with Client(front.port) as client:
            for _ in range(2):
                client.send(get(path + spelling))
                answered = client.answer()
                assert answered and answered.body.decode() == path + spelling
    assert sorted(front.origin.targets()) == sorted(path + s for s in SPELLINGS)


@pytest.mark.parametrize("target", REFUSED)
def test_target_that_is_no_path_is_refused(front, target) -> None:
    with Client(front.port) as client:
        client.send(get(target))
        answered = client.answer()
        assert answered and answered.status in (400, 404, 505)
        assert client.closed()
    assert front.origin.heard == []


PRIVATE = {
    "private": ["Cache-Control: private, max-age=60"],
    "no-store": ["Cache-Control: no-store"],
    "set-cookie": ["Cache-Control: max-age=60", "Set-Cookie: id=1"],
    "set-cookie-public": ["Cache-Control: public, s-maxage=60", "Set-Cookie: id=1"],
    "nothing": ["Cache-Control:"],
    "nothing-but-a-type": ["Cache-Control:", "Content-Type: text/css"],
    "pragma": ["Cache-Control:", "Pragma: no-cache"],
    "expired": ["Cache-Control:", "Expires: 0"],
}


@pytest.mark.parametrize("lines", PRIVATE.values(), ids=PRIVATE)
@pytest.mark.parametrize("known", [[], ["Cookie: id=1"], ["Authorization: Basic eA=="]])
def test_deceived_client_is_not_told_of(front, path, lines, known) -> None:
    """The victim follows the attacker's link; the attacker asks for the same."""
    count = itertools.count()
    front.origin.answer = lambda asked: said(f"{next(count)}", *lines)
    for spelling in SPELLINGS[:12]:
        with Client(front.port) as client:
            client.send(get(path + spelling, *known) * 2)
            own = [a.body for _ in range(2) if (a := client.answer())]
        others = [front.get(path + spelling).body for _ in range(2)]
        assert len({*own, *others}) == 4


@pytest.mark.parametrize("known", ["Cookie: id=1", "Authorization: Basic eA=="])
def test_deceived_client_is_not_told_of_though_its_answer_is_fresh(
    front: Front, path: str, known: str
) -> None:
    """A rule `*.css is static` at the origin's side sets max-age, and no more."""
    front.origin.answer = lambda asked: said(
        asked.get("Cookie") + asked.get("Authorization")
    )
    for spelling in SPELLINGS:
        assert front.get(path + spelling, known).body
        assert front.get(path + spelling).body == b""
