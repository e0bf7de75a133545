"""Random requests through both lanes: `python -m tests.server.fuzz_lanes --requests N`.

Each history is one connection: a few requests of the corpus's parts, half of them
damaged, cut anywhere. The same bytes go to a connection that may take the fast lane and
to one that may not, and what comes back must be the same. Where aiohttp itself answers
so or so, as when a body turns out damaged while its request is on the way to the
origin, the fast lane's answer must be one of these.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.server.lanes import Lanes, lanes
from tests.server.test_fastlane import BLOCKS, METHODS, ODD, TARGETS, request

BYTES = [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"\0", b"/", b"#", b"?"]
BYTES += [b"HTTP/1.1", b"GET / ", b"Host: a\r\n", b"\xff", b"%", b"Content-Length: 1"]
GOOD = {
    request(target, *block, method=method) * count
    for target in TARGETS[:9]
    for block in list(BLOCKS.values())[:10]
    for method in ("GET", "HEAD")
    for count in (1, 33, 60)
}
"""What may come before the one before it is answered."""
ROUNDS = 6
"""Of a connection's bytes through the slow lane, to see whether it answers alike."""


@dataclass
class Found:
    """What a run came to."""

    requests: int = 0
    histories: int = 0
    fast: int = 0
    """Hits of the fast lane."""
    either_way: int = 0
    """Histories to which aiohttp itself has several answers."""
    disagreements: list[tuple[int, list[bytes], bytes, bytes]] = field(
        default_factory=list
    )


def history(draw: random.Random) -> list[bytes]:
    """The chunks of one connection."""
    sent, damage = [], draw.choice((0.0, 0.1, 0.4))
    for _ in range(draw.randrange(1, 8)):
        data = _request(draw)
        if draw.random() < damage:
            data = _damaged(draw, data)
        sent.append(data)
    if draw.random() < 0.75:
        return sent
    whole = b"".join(sent)
    cuts = sorted(draw.randrange(len(whole) + 1) for _ in range(draw.randrange(4)))
    edges = itertools.pairwise((0, *cuts, len(whole)))
    return [whole[a:b] for a, b in edges if a < b]


def _request(draw: random.Random) -> bytes:
    if draw.random() < 0.05:
        return draw.choice(list(ODD.values()))
    if draw.random() < 0.03:  # a body, of which the end is missing sometimes
        head = request("/unknown", "Content-Length: 3", method="POST")
        return head + draw.choice((b"abc", b"ab", b""))
    target = draw.choice(TARGETS[:9]) if draw.random() < 0.8 else draw.choice(TARGETS)
    method = "GET" if draw.random() < 0.8 else draw.choice(["HEAD", *METHODS])
    common = draw.random() < 0.7  # else there would be few that are known
    names = draw.choices(list(BLOCKS)[: 10 if common else None], k=draw.randrange(3))
    fields = [line for name in names for line in BLOCKS[name]]
    if draw.random() < 0.1:
        fields = [draw.choice((line.upper(), line.lower())) for line in fields]
    one = request(target, *fields, method=method)
    if draw.random() < 0.02:  # more than aiohttp's queue holds
        return one * draw.choice((20, 33, 60))
    return one


def _damaged(draw: random.Random, data: bytes) -> bytes:
    at, other = (draw.randrange(len(data) + 1) for _ in range(2))
    match draw.randrange(6):
        case 0:  # a byte less
            return data[:at] + data[at + 1 :]
        case 1:  # another byte
            return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
        case 2:  # more bytes
            return data[:at] + draw.choice(BYTES) + data[at:]
        case 3:  # a piece twice
            return data[: max(at, other)] + data[min(at, other) :]
        case 4:  # a bit
            flipped = data[at - 1] ^ 1 << draw.randrange(8)
            return data[: at - 1] + bytes([flipped]) + data[at:] if at else data
    return data[:at]  # the end is missing


async def run(seed: int, requests: int) -> Found:
    """Histories from a seed, until so many requests were sent to either lane."""
    found, draw = Found(), random.Random(seed)
    async with lanes() as both:
        while found.requests < requests:
            chunks = history(draw)
            found.requests += max(1, b"".join(chunks).count(b" HTTP/1."))
            found.histories += 1
            patient = draw.random() < 0.9
            if not patient:
                # what stands before a bad request is answered by whoever is faster
                chunks = [data for data in chunks if data in GOOD] or [request("/")]
            slow, fast = await both.both(chunks, patient)
            if slow != fast:
                await _judge(both, found, chunks, patient, slow, fast)
        found.fast = both.fast_hits
    return found


async def _judge(
    both: Lanes,
    found: Found,
    chunks: list[bytes],
    patient: bool,
    slow: bytes,
    fast: bytes,
) -> None:
    answers = {slow}
    for _ in range(ROUNDS):
        await both.restore()
        answers.add(await both.talk(both.slow, chunks, patient))
    if fast in answers:
        found.either_way += 1
    else:
        found.disagreements.append((found.histories, chunks, slow, fast))


def _job(seed: int, requests: int) -> Found:
    logging.disable()  # origins that hear nonsense are no news here
    return asyncio.run(run(seed, requests))


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("fuzz_lanes", description=__doc__)
    parser.add_argument("--requests", type=lambda n: int(float(n)), default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args(args)
    began, each = time.monotonic(), asked.requests // asked.jobs
    seeds = range(asked.seed, asked.seed + asked.jobs)
    with ProcessPoolExecutor(asked.jobs) as pool:
        runs = list(pool.map(_job, seeds, [each] * asked.jobs))
    told = {
        name: sum(getattr(one, name) for one in runs)
        for name in ("requests", "histories", "fast", "either_way")
    }
    bad = [one for r in runs for one in r.disagreements]
    print(
        f"{told['requests']:,} requests in {told['histories']:,} connections from seed "
        f"{asked.seed}, {told['fast']:,} answered by the fast lane, in "
        f"{time.monotonic() - began:.0f} s: {len(bad)} disagreements "
        f"({told['either_way']} answered either way by aiohttp itself)"
    )
    for number, chunks, slow, fast in bad[:5]:
        print(f"\nconnection {number}: {chunks!r}\nslow: {slow!r}\nfast: {fast!r}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
