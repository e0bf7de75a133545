"""What must hold: the four properties, as far as a state shows them.

1. No get that starts after an invalidation returned on its host is answered with an
   older fetch: `World.answer`.
2. No accepted fill after its lease or claim passed on: `put_fenced`, `store`.
3. Every waiter ends: from every state natural edges alone lead to an `ended` one.
4. Across hosts every older value is gone, or stale, when the stream was applied.
"""

from __future__ import annotations

from .followers import behind, leads
from .parts import Process
from .world import World


def ended(w: World) -> bool:
    """Every operation is over, and the services rest with nothing to do."""
    for p in w.processes:
        over = p.at in ("done", "dead") or p.me == w.scenario.hung
        if not over and not rests(w, p):
            return False
    return True


def rests(w: World, p: Process) -> bool:
    """A service with nothing to do."""
    h = w.host(p)
    if p.at == "drain":
        return not h.outbox and not h.overflown
    return p.at == "follow" and not (behind(w, h) and leads(w, p))


def judge(w: World) -> str:
    """Property 4 where nothing is left to do, and what a step itself found broken."""
    if w.broken or not ended(w) or any(h.outbox or h.overflown for h in w.hosts):
        return w.broken
    must = w.appended | w.everywhere()
    v = w.redis.fresh()
    if v and must & ~w.fetches[v]:
        return f"L2 still holds v{v}, older than an invalidation that was sent"
    for i, h in enumerate(w.hosts):
        v = h.fresh()
        if v and must & ~w.fetches[v] and followed(w, i):
            return f"L1 of {'ab'[i]} still holds v{v}, older than an invalidation"
    return ""


def followed(w: World, host: int) -> bool:
    """A follower lives there, and found nothing to do."""
    return not behind(w, w.hosts[host]) and any(
        p.host == host and p.at == "follow" for p in w.processes
    )
