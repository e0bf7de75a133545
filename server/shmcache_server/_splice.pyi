"""The answer to a hit in one piece: stored head, what is told of it, stored body."""

from asyncio import Transport
from collections.abc import Callable

Hit = tuple[bytes, bool, int, int]

def splice(document: bytes, age: int, ttl: int, body: bool = True) -> bytes | None:
    """A stored response (`stored.py`) as it goes out, `age` seconds old and fresh for
    `ttl` more; without `body` its head alone, the empty line included. None if the
    document is no stored response of this version."""

class Sender:
    """The way out of a connection: straight to its socket where nothing waits before
    it, which spares the transport's own bookkeeping. What the socket does not take, and
    all under TLS, goes by the transport."""

    def __init__(self, transport: Transport) -> None: ...
    def fall_behind(self) -> None:
        """Something is, or may be, written to the transport: what is sent next goes
        behind it."""

class Known:
    """Header blocks, with the end of the request line, of requests that are answered
    as they come if `hit` has their key."""

    def __init__(
        self, hit: Callable[[bytes], Hit | None], *, longest: int, most: int
    ) -> None: ...
    def __len__(self) -> int: ...
    def know(self, block: bytes, prefix: bytes) -> None:
        """What keys begin with where a request bears that block."""

    def forget(self) -> None:
        """All of them."""

    def answer(self, data: bytes, sender: Sender) -> bool | Hit | None:
        """Answer the GET `data`, of `longest` bytes at most, if its block is known and
        `hit` has the key: True, if that was written; False, if there is nothing. What
        was found where there is more to do than that: it is stale, or of more than
        `most` bytes. None: it is not known."""
