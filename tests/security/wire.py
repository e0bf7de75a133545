"""Messages of HTTP/1.1 as strictly as RFC 9112 has them: bytes in, one message out.

Stricter than any parser that the server uses: what a reader could take for two things
is `Malformed`. So neither side of the server can lead this one astray.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST = re.compile(rb"(%b) (/[!-~]*) HTTP/1\.([01])" % _TOKEN)
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2}) [^\r\n\0]*")
_FIELD = re.compile(rb"(%b):[ \t]*((?:[!-~\x80-\xff][\t -~\x80-\xff]*)?)" % _TOKEN)
_ANSWERS_FIELD = re.compile(rb"(%b):[ \t]*([^\r\n\0]*)" % _TOKEN)
"""RFC 9110 §5.5 lets other control characters of an origin pass."""
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
Fields = list[tuple[bytes, bytes]]
_BODILESS = frozenset({204, 304})


class Malformed(Exception):
    """No message, or one that could be read in two ways."""


@dataclass
class Message:
    """One message, whole."""

    raw: bytes
    """Its exact bytes."""
    start: tuple[bytes, ...]
    """Method, target, minor version; or status."""
    fields: Fields
    """Names in lower case."""
    body: bytes
    """Without its chunks."""
    interim: list[int] = field(default_factory=list)
    """Statuses of the 1xx before it."""

    @property
    def target(self) -> str:
        return self.start[1].decode()

    @property
    def status(self) -> int:
        return int(self.start[0])

    def all(self, name: str) -> list[str]:
        wanted = name.lower().encode()
        return [v.decode("latin-1") for n, v in self.fields if n == wanted]

    def get(self, name: str) -> str:
        return ", ".join(self.all(name))


def request(data: bytes) -> Message | None:
    """The first request of `data`, None while it is not whole; `Malformed`."""
    head = _head(data)
    if head is None:
        return None
    lines, size = head
    start = _REQUEST.fullmatch(lines[0])
    if start is None:
        raise Malformed(f"request line {lines[0][:80]!r}")
    fields = _fields(lines[1:], _FIELD)
    names = [name for name, _ in fields]
    if names.count(b"host") != 1 and start[3] == b"1":
        raise Malformed(f"{names.count(b'host')} Host fields")
    if b"transfer-encoding" in names and start[3] == b"0":
        raise Malformed("chunks of HTTP/1.0")
    framed = _body(data, size, fields, otherwise=0)
    if framed is None:
        return None
    body, end = framed
    return Message(data[:end], start.groups(), fields, body)


def answer(data: bytes, method: str = "GET", *, ended: bool) -> Message | None:
    """The first final answer of `data`, to a request of that method, with the 1xx
    before it; None while it is not whole. `ended`: no more comes. `Malformed`."""
    interim: list[int] = []
    rest = data
    while True:
        head = _head(rest)
        if head is None:
            return None
        lines, size = head
        start = _STATUS.fullmatch(lines[0])
        if start is None:
            raise Malformed(f"status line {lines[0][:80]!r}")
        fields, status = _fields(lines[1:], _ANSWERS_FIELD), int(start[1])
        if status >= 200 or status == 101:
            break
        interim.append(status)
        rest = rest[size:]
    if method == "HEAD" or status in _BODILESS:
        framed: tuple[bytes, int] | None = (b"", size)
    else:
        framed = _body(rest, size, fields, otherwise=None if ended else -1)
    if framed is None:
        return None
    raw = data[: len(data) - len(rest) + framed[1]]
    return Message(raw, start.groups(), fields, framed[0], interim)


def _head(data: bytes) -> tuple[list[bytes], int] | None:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    return data[:end].split(b"\r\n"), end + 4


def _fields(
    lines: list[bytes], grammar: re.Pattern[bytes]
) -> list[tuple[bytes, bytes]]:
    fields = []
    for line in lines:
        found = grammar.fullmatch(line)
        if found is None:
            raise Malformed(f"field {line[:80]!r}")
        fields.append((found[1].lower(), found[2].rstrip(b" \t")))
    return fields


def _body(
    data: bytes, size: int, fields: Fields, otherwise: int | None
) -> tuple[bytes, int] | None:
    """The body and where it ends. With no length of its own it is `otherwise` bytes
    long, None: all there is, -1: not whole yet."""
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise Malformed(f"framed by {lengths} and {codings}")
    if codings:
        if codings != [b"chunked"]:
            raise Malformed(f"coding {codings[0]!r}")
        return _chunks(data, size)
    if lengths:
        if not re.fullmatch(rb"[0-9]{1,19}", lengths[0]) or int(lengths[0]) >= 2**63:
            raise Malformed(f"length {lengths[0]!r}")
        otherwise = int(lengths[0])
    if otherwise == -1:
        return None
    end = len(data) if otherwise is None else size + otherwise
    return (data[size:end], end) if end <= len(data) else None


def _chunks(data: bytes, at: int) -> tuple[bytes, int] | None:
    body = b""
    while True:
        found = _CHUNK.match(data, at)
        if found is None:
            if b"\r\n" in data[at:] or len(data) - at > 10:
                raise Malformed(f"chunk {data[at : at + 40]!r}")
            return None
        size, start = int(found[1], 16), found.end()
        at = start + size + 2
        if len(data) < at:
            return None
        if data[at - 2 : at] != b"\r\n":
            raise Malformed(f"end of a chunk {data[at - 2 : at]!r}")
        if not size:
            return body, at
        body += data[start : at - 2]
