"""The document that all servers answer with."""

import json

import pytest

from loadtest.peers.document import document


@pytest.mark.parametrize("size", [100, 1024, 65_536])
def test_document_has_just_the_size(size: int) -> None:
    body = document(size)
    assert len(body) == size
    assert json.loads(body)["symbol"] == "BTCUSDT"


def test_too_small_a_document_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        document(20)
