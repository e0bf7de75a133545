"""Segment: the file in /dev/shm, made, attached, kept or removed; and who is alive.

Attach
    1. Open or create the file; refuse another user's, a link, a wrong mode.
    2. Take a shared flock. Name and descriptor must be the same inode, else the
       file was removed between 1 and 2: again.
    3. A ready header that agrees is attached. Otherwise the exclusive flock is tried:
       who has it is alone, so an empty file is made into a segment, and what a dead
       creator or another build left is removed. Who cannot have it waits while
       somebody else makes the segment, and is refused if it is in use and differs.
       In use means for half a second: others who come now look at it under the
       shared flock for a moment, as we do.

Creation and removal happen only under the exclusive flock, and everyone attached
holds the shared one, so nothing ever unlinks a segment that is in use. The kernel
drops a flock with its last descriptor: `kill -9` leaves a file that nobody holds.

Liveness
    A slot's byte in the file is locked (an OFD lock) on a descriptor of its own for
    as long as its process lives. A forked child closes that descriptor: it would
    otherwise keep its parent alive. It holds the segment by a description of its own
    too, for to let go of an inherited flock is to let go of the parent's.

Who else touches the file
    Our user may remove it: those attached go on with what they have, processes to come
    make another, and `lost` tells the former. To truncate it is fatal to whoever
    reads what is gone (SIGBUS); nothing that maps a file can prevent that.

The file can be opened by `multiprocessing.shared_memory.SharedMemory(name)`. It is
made by the calls beneath it, because its resource tracker would unlink a segment in
use, and its bare ftruncate would let a full /dev/shm end in SIGBUS. The mapping is
left out of core dumps: it holds users' data.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import random
import re
import signal
import stat
import struct
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from secrets import token_bytes
from typing import Protocol

from . import room
from .errors import LayoutMismatch, SegmentError, SegmentGone

SHM = Path("/dev/shm")
_ATTACH_DEADLINE = 10.0
_MADE_A_SECOND = 2**29
"""Bytes reserved by a creator, at the slowest: the others wait for as long."""
_IN_USE_SECONDS = 0.5
_STEP = 2**27
"""Bytes reserved at once, with signals blocked."""
_attached: weakref.WeakSet[Segment] = weakref.WeakSet()

Prepare = Callable[[mmap.mmap, bytes], None]
"""Writes header and regions into zeroed memory, with this seed."""
Verdict = Callable[[mmap.mmap, int], str | None]
"""Of the header's page and the file's size: None where it agrees, else why not;
`UNFINISHED` for none at all."""
UNFINISHED = "it was never finished"


class Memory(Protocol):
    """A mapping of the file, a buffer."""

    def __len__(self) -> int: ...
    def advise(self, advice: int) -> None: ...


Mapped = Callable[[int, int], Memory]
"""Maps so many bytes of a file; it keeps no descriptor, which would be one more for
each attachment that ended, for their mappings stay."""


MADE, ATTACHED, REPLACED = "made", "attached", "replaced"
BUSY, IN_USE, AGAIN = "busy", "in use", "again"
"""What `_settle` answers."""
REMOVED, TAKEN, CUT = "removed", "taken", "cut"
"""What `Segment.lost` answers."""


class Segment:
    """One attachment to the file. The mapping outlives `close`: a thread may be
    inside, and robust lists point into it."""

    def __init__(self, path: Path, fd: int, memory: Memory, note: str) -> None:
        self.path = path
        self.memory = memory
        self.note = note
        """made, attached, or why an older one was replaced."""
        self._fd = fd
        self._slot_fd = -1
        self._slot_byte = -1
        self.forked = False
        """In a forked child: the slot is the parent's, take one of our own."""
        self.inherited = False
        """A child may use the mapping."""
        _attached.add(self)

    @classmethod
    def open(
        cls, name: str, size: int, prepare: Prepare, verdict: Verdict, mapped: Mapped
    ) -> Segment:
        """Attach to `name`, making it with `size` bytes where it is not there.

        `LayoutMismatch` if it is in use and differs; `SegmentError` if it cannot be
        made: too small a /dev/shm, another user's file.
        """
        path = SHM / name
        note = waited = ""
        began = used = time.monotonic()
        while (now := time.monotonic()) - began < _patience(size):
            fd = _open_file(path)
            try:
                answer, why = _settle(path, fd, size, prepare, verdict)
                if answer in (MADE, ATTACHED):
                    return cls(path, fd, _map(path, fd, mapped), note or answer)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
            if answer == REPLACED:
                note = f"replaced: {why}"
            if answer != IN_USE:
                used = now
            elif now - used > _IN_USE_SECONDS:
                raise LayoutMismatch(
                    f"segment {path}: in use, and {why}; stop its processes or choose "
                    "another name"
                )
            if answer in (BUSY, IN_USE):
                waited = why
                time.sleep(random.uniform(0.0005, 0.004))  # or two retry in step
        raise SegmentGone(
            f"segment {path}: {waited or 'it kept changing'} for {_patience(size):g} s"
        )

    def lost(self) -> str:
        """What somebody did to the file: REMOVED, TAKEN (another file bears the name)
        or CUT (truncated); "" while all is well."""
        if self._fd < 0:
            return ""
        try:
            named = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return REMOVED
        if not os.path.samestat(named, os.fstat(self._fd)):
            return TAKEN
        return CUT if named.st_size < len(self.memory) else ""

    # -- process slots

    def lock_slot(self, byte: int) -> bool:
        """Lock a slot's byte for the life of this attachment; False if it is taken."""
        if self._slot_fd < 0:
            self._slot_fd = _open_again(self._fd)
        try:
            fcntl.fcntl(self._slot_fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, byte))
        except OSError as e:
            if e.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        self._slot_byte = byte
        return True

    def alive(self, byte: int) -> bool:
        """Whether some process holds the slot whose byte this is."""
        if byte == self._slot_byte:
            return True
        reply = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
        return bool(struct.unpack_from("h", reply)[0] != fcntl.F_UNLCK)

    def wake_path(self, slot: int) -> str:
        """Where the wake socket of the process in `slot` is bound. No cache may bear a
        name with a tilde: else it would be what another's name and slot make."""
        return f"{self.path}~{slot}"

    # -- end

    def detach(self) -> None:
        """Let go of slot and file; the mapping stays."""
        for fd in (self._slot_fd, self._fd):
            if fd >= 0:
                os.close(fd)
        self._slot_fd = self._fd = self._slot_byte = -1

    def remove(self) -> bool:
        """Remove the file if nobody else is attached; whether it is gone. Only before
        `detach`: the shared flock is given up first.

        1. Two processes that are the last close at once. 2. Each, still holding its
        shared lock, asks for the exclusive one: both are refused, the file stays. So
        each lets go first; whoever asks last then has it.
        """
        if not self._alone():
            return False
        if _same_file(self.path, self._fd):
            _unlink(self.path)
        if not self.inherited:
            _give_back(self._fd)
        return True

    def tidy(self) -> None:
        """As `remove`, of a file that is kept: only the wake sockets beside it go,
        which processes that were killed have left."""
        if self._alone() and _same_file(self.path, self._fd):
            _unlink_sockets(self.path)

    def _alone(self) -> bool:
        """Give up the shared flock, and have the exclusive one if nobody has any."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _born(self) -> None:
        """In a forked child, before anything else runs there."""
        if self._slot_fd >= 0:
            os.close(self._slot_fd)
        self._slot_fd = self._slot_byte = -1
        if self._fd >= 0:
            inherited, self._fd = self._fd, _open_again(self._fd)
            # The parent holds it: at once ours. Not where another of its threads is
            # removing it: to wait for that lock, whose descriptor was born with us
            # too, would never end.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.close(inherited)
        self.forked = True


def _patience(size: int) -> float:
    return _ATTACH_DEADLINE + size / _MADE_A_SECOND


def _open_file(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as e:
        raise SegmentError(
            f"segment {path}: cannot be opened: {e.strerror}{_whose(path)}"
        ) from e
    found = os.fstat(fd)
    if not _ours(found):
        os.close(fd)
        raise SegmentError(
            f"segment {path}: expected a file of our own with mode 0600"
            f"{_words(found)}; remove it or choose another name"
        )
    return fd


def _ours(found: os.stat_result) -> bool:
    """Whether a file is one that we would have made."""
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_uid == os.geteuid()
        and not stat.S_IMODE(found.st_mode) & 0o177
        and found.st_nlink <= 1
    )


def _whose(path: Path) -> str:
    try:
        return _words(os.lstat(path))
    except OSError:
        return ""


def _words(found: os.stat_result) -> str:
    return (
        f", found uid {found.st_uid}, mode {stat.filemode(found.st_mode)}, "
        f"{found.st_nlink} links"
    )


def _settle(
    path: Path, fd: int, size: int, prepare: Prepare, verdict: Verdict
) -> tuple[str, str]:
    """Bring the open file to an attachable state, holding the shared flock at the end.

    MADE or ATTACHED; or, to be tried again: BUSY, another process is making it;
    IN_USE by others, and why we cannot share it; REPLACED, and why it was removed;
    AGAIN.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return BUSY, "somebody else has been making or removing it"
    if not _same_file(path, fd):
        return AGAIN, ""
    why = _judge(fd, verdict)
    if why is None:
        return ATTACHED, ""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return (BUSY if why == UNFINISHED else IN_USE), why
    if not _same_file(path, fd):
        return AGAIN, ""
    why = _judge(fd, verdict)  # the conversion let go of the file for a moment
    if why is None:
        return AGAIN, ""
    if os.fstat(fd).st_size:
        _unlink(path)
        return REPLACED, why
    _make(path, fd, size, prepare)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return (MADE if _same_file(path, fd) else AGAIN), ""


def _judge(fd: int, verdict: Verdict) -> str | None:
    size = os.fstat(fd).st_size
    if size < mmap.PAGESIZE:
        return UNFINISHED
    page = mmap.mmap(fd, mmap.PAGESIZE, access=mmap.ACCESS_READ)
    with contextlib.closing(page):
        return verdict(page, size) if any(page[:8]) else UNFINISHED


def _make(path: Path, fd: int, size: int, prepare: Prepare) -> None:
    """Reserve every page, then let the header be written; nothing stays on failure."""
    try:
        if why := room.refusal(path.parent, size):
            raise SegmentError(f"size: a segment of {size} bytes {why}")
        _reserve(fd, size)
        prepare(mmap.mmap(fd, size), token_bytes(16))
    except OSError as e:
        _unlink(path)
        if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM):
            raise
        os.ftruncate(fd, 0)  # its pages count in the numbers that are told
        why = room.refusal(path.parent, size) or f"cannot be had: {e.strerror}"
        raise SegmentError(f"size: a segment of {size} bytes {why}") from e
    except BaseException:
        _unlink(path)
        raise


def _reserve(fd: int, size: int) -> None:
    """Reserve every page, in steps. A signal undoes a step on tmpfs, and a frequent
    one would for ever: so none is taken within a step."""
    for at in range(0, size, _STEP):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            os.posix_fallocate(fd, at, min(_STEP, size - at))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _map(path: Path, fd: int, mapped: Mapped) -> Memory:
    """Map the file through a description of its own: the mapping keeps it, and would
    keep the flock with it after `detach`."""
    again = _open_again(fd)
    size = os.fstat(again).st_size
    try:
        memory = mapped(again, size)
    except OSError as e:
        raise SegmentError(
            f"size: a segment of {size} bytes cannot be mapped: {e.strerror}; choose "
            "a smaller size or raise the limit of address space (ulimit -v)"
        ) from e
    finally:
        os.close(again)
    for advice in (mmap.MADV_DONTDUMP, mmap.MADV_HUGEPAGE):
        with contextlib.suppress(OSError):  # a kernel without it
            memory.advise(advice)
    return memory


def _open_again(fd: int) -> int:
    """Another description of the same inode, whatever its name is by now."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)


def _same_file(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _give_back(fd: int) -> None:
    """Free the pages of a file that nobody is attached to any more. Mappings outlive
    `close`, and would hold them; they read zeros from here on."""
    with contextlib.suppress(OSError):
        size = os.fstat(fd).st_size
        with mmap.mmap(fd, size) as whole:
            whole.madvise(mmap.MADV_REMOVE)


def _unlink(path: Path) -> None:
    """Remove the file and the wake sockets beside it; the exclusive flock is held."""
    _unlink_sockets(path)
    path.unlink(missing_ok=True)


def _unlink_sockets(path: Path) -> None:
    sockets = re.compile(re.escape(path.name) + r"~[0-9]+")
    for beside in path.parent.iterdir():  # exactly: another's name may begin alike
        if sockets.fullmatch(beside.name):
            with contextlib.suppress(OSError):  # gone, or somebody else's
                beside.unlink()


def _flock(kind: int, byte: int) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)


def _born() -> None:
    for segment in list(_attached):
        segment._born()


def _forked() -> None:
    for segment in _attached:
        segment.inherited = True


os.register_at_fork(after_in_child=_born, after_in_parent=_forked)
