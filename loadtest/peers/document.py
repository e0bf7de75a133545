"""The JSON of an asked size that every server of the benchmark answers with."""

from __future__ import annotations

import json


def document(size: int) -> bytes:
    """A body of just so many bytes."""
    bare = {"symbol": "BTCUSDT", "price": "64250.10", "padding": ""}
    bare["padding"] = "x" * (size - len(json.dumps(bare)))
    body = json.dumps(bare).encode()
    if len(body) != size:
        raise ValueError(f"{size} bytes are too few for the document")
    return body


def path(size: int, key: str = "k0") -> str:
    """Where a document of this size is asked for."""
    return f"/{size}/{key}"
