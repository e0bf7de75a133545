"""Many connections at once, from one thread: each asks once, and stays."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .wrk import Failed

WITHIN = 20.0
END = b"\r\n\r\n"


@contextmanager
def crowd(port: int, path: str, count: int, body_bytes: int) -> Iterator[float]:
    """Seconds from the first connect until the last whole answer; within the block
    the connections are open and idle. `Failed` if one has none in time."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    with ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        began = time.perf_counter()
        members = {}
        for _ in range(count):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            poll.register(one, select.EPOLLOUT)
            members[one.fileno()] = one
        try:
            _answered(poll, members, request, body_bytes, began + WITHIN)
        except OSError as e:
            raise Failed(f"a connection broke: {e}") from e
        yield time.perf_counter() - began


def _answered(
    poll: select.epoll,
    members: dict[int, socket.socket],
    request: bytes,
    body_bytes: int,
    deadline: float,
) -> None:
    got = dict.fromkeys(members, b"")
    while got:
        left = deadline - time.perf_counter()
        if left <= 0:
            raise Failed(f"{len(got)} of {len(members)} connections got no answer")
        for number, events in poll.poll(left):
            one = members[number]
            if events & select.EPOLLIN:
                got[number] += (data := one.recv(1 << 17))
                head, end, body = got[number].partition(END)
                if end and len(body) >= body_bytes and b" 200 " in head[:16]:
                    poll.modify(number, 0)
                    del got[number]
                elif not data:
                    raise Failed(f"a connection was closed after {got[number][:80]!r}")
            elif events & (select.EPOLLERR | select.EPOLLHUP):
                raise Failed("a connection was refused")
            else:
                one.send(request)
                poll.modify(number, select.EPOLLIN)
