"""Which rows are measured."""

from __future__ import annotations

from loadtest.peers.scenes import SCENES, chosen
from loadtest.peers.servers import PEERS


def rows(only: list[str], look: bool) -> set[tuple[str, str]]:
    return {(s.name, ask.peer) for s in chosen(only, look) for ask in s.asks}


def test_every_row_asks_a_known_server() -> None:
    assert {peer for scene in SCENES for peer in scene.peers} == set(PEERS)
    assert not {scene.name for scene in SCENES} & set(PEERS)


def test_all_are_chosen_where_none_is_named() -> None:
    assert chosen([], look=False) == list(SCENES)


def test_a_look_has_fewer() -> None:
    assert rows([], look=True) < rows([], look=False)


def test_scenes_and_servers_named_are_chosen() -> None:
    assert {scene for scene, _ in rows(["100B"], look=True)} == {"100B"}
    assert {peer for _, peer in rows(["nginx"], look=True)} == {"nginx"}
    assert rows(["1KB", "64KB", "ours"], look=False) == {
        ("1KB", "ours"),
        ("64KB", "ours"),
    }
