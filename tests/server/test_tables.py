"""What follows from a table's values."""

from __future__ import annotations

import pytest

from shmcache_server.config import Config
from shmcache_server.tables import OriginConfig


@pytest.mark.parametrize(
    ("settings", "patience"),
    [
        ({}, 35.0),
        ({"timeout": 9.0}, 14.0),
        ({"first_byte_timeout": 2.0, "connect_timeout": 1.0}, 3.0),
        ({"total_timeout": 4.0}, 4.0),
    ],
)
def test_head_of_an_answer_is_awaited_so_long(settings, patience) -> None:
    origin = OriginConfig(url="http://a", **settings)
    assert origin.patience == patience
    assert Config(origin=origin).cache("n", None).hard_timeout == patience
