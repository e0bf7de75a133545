"""Hosts: how far each has applied the stream of invalidations, as it tells the fleet.

A host's follower writes the position that it has applied, and Redis' time, into a hash
of the partition. Who was silent for ten seconds is not counted any more: it is stopped,
gone, or cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

LIVE_MS = 10_000
"""Since it last told; it does so each second."""
PIECE_BITS = 20
"""Of an incarnation, by which a position says of which it is."""


class Confirmation(NamedTuple):
    """How many of the fleet's hosts have applied what was invalidated here."""

    confirmed: int
    """This host among them: it has, before the invalidation returned."""
    hosts: int | None
    """Those alive. None: it is not known."""
    told: bool
    """Whether it is in the stream. False: it is kept in this host's outbox, and will
    be when Redis is back."""


class Told(NamedTuple):
    """What a host tells."""

    position: int
    piece: int
    """Of the incarnation that the position is of."""
    at_ms: int
    """Redis' time."""

    def packed(self) -> bytes:
        return b"%d %d %d" % self


class Heard(NamedTuple):
    """What a partition's Redis knows."""

    clock: int
    """Of the last entry of its stream."""
    piece: int
    hosts: Mapping[bytes, Told]
    """Those alive."""


def unpacked(value: bytes) -> Told | None:
    """What was packed; None if it was something else."""
    try:
        return Told(*map(int, value.split(b" ")))
    except (ValueError, TypeError):
        return None


def heard(
    incarnation: bytes, clock: bytes, now_ms: int, pairs: Sequence[bytes]
) -> tuple[Heard, list[bytes]]:
    """What the replies of Redis tell; and hosts to be forgotten."""
    hosts, silent = dict[bytes, Told](), list[bytes]()
    for host, value in zip(pairs[::2], pairs[1::2], strict=True):
        told = unpacked(value)
        if told is None or now_ms - told.at_ms > LIVE_MS:
            silent.append(host)
        else:
            hosts[host] = told
    return Heard(int(clock), piece_of(incarnation), hosts), silent


def piece_of(incarnation: bytes) -> int:
    return int.from_bytes(incarnation, "little") % (1 << PIECE_BITS)


def confirmation(
    ends: Sequence[Heard], now: Sequence[Heard], me: bytes
) -> Confirmation:
    """Who has applied every partition's stream up to its end. Where not even `me` is
    heard of, nothing is known of the others."""
    if not all(me in one.hosts for one in now):
        return Confirmation(1, None, told=True)
    hosts = set().union(*(one.hosts for one in now))
    done = {host for host in hosts if host == me or all(_reached(host, ends, now))}
    return Confirmation(len(done), len(hosts), told=True)


def _reached(
    host: bytes, ends: Sequence[Heard], now: Sequence[Heard]
) -> Iterator[bool]:
    for end, heard in zip(ends, now, strict=True):
        told = heard.hosts.get(host)
        # a position in a later incarnation was taken with a gap, behind everything
        yield told is not None and (
            told.piece == heard.piece
            and (told.piece != end.piece or told.position >= end.clock)
        )
