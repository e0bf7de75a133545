"""The answer to a hit in one piece: stored head, what is told of it, stored body."""

from asyncio import Transport
from collections.abc import Callable

Hit = tuple[bytes, bool, int, int]

def splice(document: bytes, age: int, ttl: int, body: bool = True) -> bytes | None:
    """A stored response (`stored.py`) as it goes out, `age` seconds old and fresh for
    `ttl` more; without `body` its head alone, the empty line included. None if the
    document is no stored response of this version."""

def answered(
    blocks: dict[bytes, bytes],
    data: bytes,
    hit: Callable[[bytes], Hit | None],
    transport: Transport,
    longest: int,
    most: int,
) -> bool | Hit | None:
    """Answer the GET `data`, of `longest` bytes at most, if its header block, with the
    end of the request line, is one of `blocks`, which tell what its key begins with,
    and `hit` has the key: True, if that was written; False, if there is nothing. What
    was found where there is more to do than that: it is stale, or of more than `most`
    bytes. None: it is not known."""
