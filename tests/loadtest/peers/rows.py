"""Rows as a run leaves them."""

from __future__ import annotations

from loadtest.peers.scenes import SCENES, Ask, Row, Run

SCENE = {scene.name: scene for scene in SCENES}


def run(rate: float, cpu: float = 1e-5, client: float = 0.5, p99: float = 2.0) -> Run:
    return Run(
        rate=rate,
        p50=1.0,
        p99=p99,
        p999=3.0,
        server_cpu=cpu,
        server_busy=rate * cpu,
        client_busy=client,
        memory=1 << 20,
        others_busy=0.1,
    )


def row(scene: str, peer: str, *runs: Run, connections: int = 64, keys: int = 1) -> Row:
    return Row(SCENE[scene], Ask(peer, connections, keys), list(runs))
