"""The answer to a hit in one piece: stored head, what is told of it, stored body."""

def splice(document: bytes, age: int, ttl: int, body: bool = True) -> bytes | None:
    """A stored response (`stored.py`) as it goes out, `age` seconds old and fresh for
    `ttl` more; without `body` its head alone, the empty line included. None if the
    document is no stored response of this version."""
