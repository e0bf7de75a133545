"""Answers: what a vendor sent, and whether it can be read at all. Pure.

A status that is no 200, a 200 whose body is an error, and a body that is no JSON are
`Unusable`, with the time before which the vendor does not want to be asked again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, NoReturn

_BANNED_UNTIL = re.compile(rb"until (\d{13})\b")
_BAN_LEAST = 120.0
"""Seconds of Binance's shortest ban."""
_WAIT_MOST = 86400.0
"""Seconds for which a vendor is believed that it is not to be asked."""


class Answer(NamedTuple):
    """What a vendor sent."""

    status: int
    fields: Mapping[str, str]
    body: bytes


class Unusable(Exception):
    """Why an answer is no reading. Its words are ours: a vendor's may repeat a key."""

    def __init__(
        self,
        why: str,
        *,
        until: float | None = None,
        banned: bool = False,
        again: bool = False,
    ) -> None:
        super().__init__(why)
        self.why = why
        self.until = until
        """Before which the vendor is not to be asked; seconds of the epoch."""
        self.banned = banned
        """That is a ban."""
        self.again = again
        """Asking once more within the same deadline may help."""


class Unasked(Unusable):
    """The vendor was not asked: this is no failure of its."""


class Unserved(Unusable):
    """The vendor does not serve from here, by its law or ours."""


def document(answer: Answer, now: float, kind: type = dict) -> Any:
    """The JSON of an answer, which is a `kind`; raises `Unusable`."""
    _refuse(answer, now)
    try:
        document = json.loads(answer.body, parse_constant=_no_number)
    except (ValueError, RecursionError):  # cut short, HTML, NaN, nested too deeply
        raise Unusable("not JSON") from None
    if type(document) is dict:
        _refuse_told(document)
    if type(document) is not kind:
        raise Unusable("JSON of another shape")
    return document


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _refuse(answer: Answer, now: float) -> None:
    """Raise for a status that is no 200."""
    status = answer.status
    if status == 200:
        return
    wait = _retry_after(answer.fields.get("Retry-After"), now)
    until = None if wait is None else now + min(wait, _WAIT_MOST)
    if status == 418:
        told = _BANNED_UNTIL.search(answer.body)
        ends = min(int(told[1]) / 1000, now + _WAIT_MOST) if told else 0.0
        until = max(ends, until or 0.0)
        if until <= now:  # no time at all, or one by another clock
            until = now + _BAN_LEAST
        raise Unusable("banned (status 418)", until=until, banned=True)
    if status == 429:
        raise Unusable("its rate limit (status 429)", until=until, again=until is None)
    if status in (401, 403):
        raise Unusable(f"its key is refused (status {status})", until=until)
    if status == 451:
        raise Unserved("not served from here (status 451)", until=until)
    raise Unusable(f"status {status}", until=until, again=status >= 500 and not until)


def _retry_after(said: str | None, now: float) -> float | None:
    """Seconds: RFC 9110 §10.2.3, a number or a date. None where it is neither."""
    if said is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", said.strip()):
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _refuse_told(document: dict[str, Any]) -> None:
    """Raise for an error that came with status 200, in any vendor's manner."""
    status, about = document.get("status"), document.get("metadata")
    errors = [
        *(document.get("error"), document.get("errors")),
        status.get("error_message") if isinstance(status, dict) else None,
        status.get("error_code") if isinstance(status, dict) else None,
        about.get("error") if isinstance(about, dict) else None,
        document.get("msg") if "code" in document else None,
    ]
    told = [error for error in errors if error]
    if any(error == 429 or "limit" in str(error).lower() for error in told):
        raise Unusable("its rate limit, in a 200", again=True)
    if told:
        raise Unusable("an error in a 200")
