"""A response on its way: streamed to those who wait while it is being stored.

Holding
    While it may be stored its chunks are all kept, so that whoever joins late has
    the body from its start, and the origin is read at full speed. Once it may not
    (not shareable, or larger than may be stored) a chunk goes when the slowest
    reader has it, and the origin is read as fast as that reader: what is held stays
    small. A reader that takes nothing for too long is cut off. So is one that holds up
    another which has all that came: each has a second to take what frees half of what
    may be held.

Ending
    A body that broke off ends in an error for every reader, who must break off too:
    a clean end would make a whole response of half a one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import islice

from .answering import Answering, OriginError
from .stored import without

HELD_MAX = 256 * 1024
"""Bytes held for slow readers of a response that is not stored."""
COPIED_MAX = 64 * 1024
"""Bytes that leave with the head at most."""
PATIENCE = 1.0
"""Seconds for which a reader may hold up others."""


class LiveResponse:
    """One response being read from the origin by a task, by any number of readers."""

    def __init__(
        self,
        answering: Answering,
        store_max: int,
        *,
        mark: int,
        age: Callable[[], float],
        stored: bool,
        tags: tuple[str, ...] = (),
        drop: frozenset[str] = frozenset(),
    ) -> None:
        self.answering = answering
        self.store_max = store_max
        self.drop = drop
        """Fields that are its own client's alone, in lower case."""
        self.mark = mark
        """The invalidation clock before it was asked for."""
        self.tags = tags
        """What it is purged by, beside its key."""
        self.age = age
        """Seconds since the origin made it."""
        self.whoever_comes = True
        """Whether it may answer who comes when its head is here: not what is to be
        validated before each use."""
        self.ended: Callable[[], None] = _nothing
        """Called when the body has come, or broken off."""
        self.outgrew: Callable[[], None] = _nothing
        """Called when it turns out to be more than may be stored."""
        self.stored = stored and (answering.length or 0) <= store_max
        """Whether it is going to be stored, as far as is known."""
        self.error: OriginError | None = None
        self.done = False
        self._chunks: deque[bytes] = deque()
        self._gone = 0  # chunks no longer held
        self._held = 0  # bytes of those that are
        self._readers: set[Reader] = set()
        self._expected = 0  # readers on their way
        self._news = asyncio.Event()  # for readers: a chunk, or the end
        self._room = asyncio.Event()  # for the pump: a reader moved, or left

    @property
    def head_for_all(self) -> bytes:
        """The head less what is its own client's alone."""
        head = self.answering.head
        return without(head, self.drop)[0] if self.drop else head

    @property
    def joinable(self) -> bool:
        """Whether the body can still be had from its start."""
        return self._gone == 0 and self.error is None

    def expect(self) -> None:
        """A reader is on its way, and is to find the body's start."""
        self._expected += 1

    def forgo(self) -> None:
        """It does not come."""
        self._expected = max(0, self._expected - 1)
        _tell(self._room)

    def body(self) -> bytes:
        """All of it; only while it is stored and done."""
        return b"".join(self._chunks)

    @property
    def size(self) -> int:
        """Bytes of the body; only while it is stored and done."""
        return self._held

    def take_at_hand(self) -> bool:
        """Whether all of the body has come with its head, and was taken in: there is
        nothing to be pumped then."""
        body = self.answering.at_hand()
        if body is None:
            return False
        if body:
            self._feed(body)
        self.done = True
        self.answering.close()
        return True

    async def pump(self, stall: float) -> None:
        """Read the origin to the end; what went wrong is kept in `error`."""
        try:
            async for chunk in self.answering.chunks():
                self._feed(chunk)
                if not self.stored and not await self._make_room(stall):
                    self.error = OriginError("nobody is left to read")
                    break
        except OriginError as e:
            self.error = e
        except asyncio.CancelledError:
            self.error = OriginError("the server is stopping")
            raise
        except Exception as e:  # whatever it is, a clean end would be a lie
            self.error = OriginError(f"origin: a body could not be read: {e}")
            raise
        finally:
            self.done = True
            self.answering.close()
            _tell(self._news)
            self.ended()

    def forget(self) -> None:
        """It will not be stored: hold no more of it than its readers need."""
        self.stored = False

    def _feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._held += len(chunk)
        if self.stored and self._held > self.store_max:
            self.stored = False
            self.outgrew()
        _tell(self._news)

    async def _make_room(self, stall: float) -> bool:
        """Wait until little is held; False if nobody reads any more."""
        self._trim()
        if self._held <= HELD_MAX:
            return True
        now = asyncio.get_running_loop().time
        full = moved = now()
        while self._held > HELD_MAX // 2:
            if not self._readers and not self._expected:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(stall, PATIENCE)):
                    await self._room.wait()
            if self._trim():
                moved = now()
            elif now() - moved >= stall:
                self._expected = 0
                self._cut(self._gone)
            if self._held <= HELD_MAX // 2:
                break  # who took the last of it holds up nobody
            if now() - full >= PATIENCE and self._held_up():
                self._cut(self._half())
                full = now()
        return True

    def _held_up(self) -> bool:
        end = self._gone + len(self._chunks)
        return any(reader.position == end for reader in self._readers)

    def _half(self) -> int:
        """The last position at which a reader keeps more than half of what may be."""
        behind, position = 0, self._gone + len(self._chunks)
        for chunk in reversed(self._chunks):
            behind += len(chunk)
            position -= 1
            if behind > HELD_MAX // 2:
                break
        return position

    def _cut(self, position: int) -> None:
        """Cut off who has come no further."""
        for reader in [r for r in self._readers if r.position <= position]:
            reader.cut()
        self._trim()

    def _trim(self) -> bool:
        """Let go of what every reader has; whether there was any."""
        if self._expected:
            return False
        before = self._gone
        first = min((r.position for r in self._readers), default=self._gone)
        while self._gone < first:
            self._held -= len(self._chunks.popleft())
            self._gone += 1
        return self._gone > before


class Reader:
    """One who reads a live response from its start; leave it by `close`. One who came
    too late for that was cut off already."""

    def __init__(self, live: LiveResponse, cut: Callable[[], None]) -> None:
        self.position = 0
        self._live = live
        self._cut = cut
        live._expected = max(0, live._expected - 1)
        if live._gone == 0:
            live._readers.add(self)

    @property
    def has_all(self) -> bool:
        """Whether it took the last byte of a whole body."""
        live = self._live
        end = live._gone + len(live._chunks)
        return live.done and live.error is None and self.position == end

    def close(self) -> None:
        """Read no more."""
        self._live._readers.discard(self)
        _tell(self._live._room)

    def cut(self) -> None:
        """Cut off for taking nothing: close, and break the client's connection."""
        self.close()
        self._cut()

    def at_hand(self) -> bytes:
        """What has come by now of the rest, or its first chunks, if they are many
        bytes: they are copied, and the copies stay as long as the reader does."""
        live, size = self._live, 0
        taken: list[bytes] = []
        if self not in live._readers:
            return b""
        for chunk in islice(live._chunks, self.position - live._gone, None):
            size += len(chunk)
            if size > COPIED_MAX:
                break
            taken.append(chunk)
        self.position += len(taken)
        if not live.stored:
            _tell(live._room)
        return b"".join(taken)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The rest of the body; raises the live response's error where it broke off,
        and ConnectionAbortedError where we are cut off."""
        live = self._live
        while True:
            held = live._chunks
            while (
                self in live._readers  # else what it has not read may be gone
                and (i := self.position - live._gone) < len(held)
            ):
                yield held[i]
                self.position += 1
                if not live.stored:
                    _tell(live._room)
            if self not in live._readers:
                raise ConnectionAbortedError("a reader was cut off")
            if live.error is not None:
                raise live.error
            if live.done:
                return
            await live._news.wait()


def _nothing() -> None:
    pass


def _tell(event: asyncio.Event) -> None:
    """Wake all who wait now; who waits later waits for the next."""
    event.set()
    event.clear()
