# cython: language_level=3, boundscheck=False, wraparound=False
# cython: initializedcheck=False, embedsignature=False
"""The C core as Python sees it: buffers in, bytes out, status to exception."""

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
)
from cpython.exc cimport PyErr_SetFromErrno
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport (
    MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, madvise, mmap, munmap,
)

from shmcache._core.ctable cimport *
from shmcache.errors import KeyRejected, LayoutMismatch, SegmentError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object s, Py_ssize_t *n) except NULL
    bint PyUnicode_IS_COMPACT_ASCII(object s)
    const void *PyUnicode_DATA(object s)
    Py_ssize_t PyUnicode_GET_LENGTH(object s)

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *ts)
    int CLOCK_BOOTTIME
    int CLOCK_MONOTONIC_COARSE

FOREVER = SHMC_FOREVER
SLOTS = SHMC_SLOTS
FRESH, STALE, DEAD = SHMC_FRESH, SHMC_STALE, SHMC_DEAD
VALUE, PASS, ERROR = SHMC_VALUE, SHMC_PASS, SHMC_ERROR
OK, MISS, BUSY, RAISED = SHMC_OK, SHMC_MISS, SHMC_BUSY, SHMC_RAISED
LOST, OLDER, TOO_LARGE = SHMC_LOST, SHMC_OLDER, SHMC_TOO_LARGE
DISABLED, FULL, STANDS = SHMC_DISABLED, SHMC_FULL, SHMC_STANDS
FREED, TENTATIVE, HELD = SHMC_FREED, SHMC_TENTATIVE, SHMC_HELD
FREED_STORED, FREED_PASS = SHMC_FREED_STORED, SHMC_FREED_PASS
FREED_REFUSED, FREED_ERROR = SHMC_FREED_REFUSED, SHMC_FREED_ERROR
# in the order of table.h
COUNTERS = (
    "hits", "stale_hits", "misses", "retries", "stores", "replaced",
    "invalidated", "expired", "evicted", "refused_raised", "refused_lost",
    "refused_older", "too_large", "no_slot", "lock_timeouts",
    "locks_recovered", "shards_wiped", "claims_full",
)
assert len(COUNTERS) == SHMC_C_CORE_END
# in the order of table.h
FAULTS = (
    "state", "queue", "fill", "age", "open", "victim", "log", "past", "outside",
    "record", "shard", "bucket", "print", "twice", "key", "chain", "piece", "stamp",
)
assert len(FAULTS) == SHMC_F_KINDS
# in the order of table.h
OUTBOX_FAULTS = ("state", "ends", "entry", "clock", "lowest")
assert len(OUTBOX_FAULTS) == SHMC_O_KINDS

cdef enum:
    READS = 8  # of one record that is reused while it is copied, then a miss
    LONG = 65536  # bytes of a value that is stored without the interpreter's lock
    INCARNATION = 0xfff  # as much of it as a claim word bears


cdef inline int64_t boottime() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_BOOTTIME, &ts)
    return <int64_t>ts.tv_sec * 1000000000 + ts.tv_nsec


cdef int64_t tick = 0, tick_began = 0  # guarded by the interpreter's lock


cdef inline int64_t lately() noexcept:
    """The time as it was when the kernel's clock last ticked, some ms ago at most: a
    third of what the exact one costs."""
    global tick, tick_began
    cdef timespec ts
    cdef int64_t now
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts)
    now = <int64_t>ts.tv_sec * 1000000000 + ts.tv_nsec
    if now != tick:
        tick = now
        tick_began = boottime()
    return tick_began


cdef inline int64_t seconds(int64_t ns) noexcept:
    """Whole seconds, rounded down."""
    return ns // 1000000000


cdef inline int read_key(object key, const char **p, Py_ssize_t *n) except -1:
    """Point into `key`, which the caller keeps; KeyRejected."""
    if PyUnicode_Check(key) and PyUnicode_IS_COMPACT_ASCII(key):
        p[0] = <const char *>PyUnicode_DATA(key)  # its own UTF-8, without a call
        n[0] = PyUnicode_GET_LENGTH(key)
    elif PyUnicode_Check(key):
        try:
            p[0] = PyUnicode_AsUTF8AndSize(key, n)
        except UnicodeEncodeError:
            raise KeyRejected("a key of str must be encodable as UTF-8") from None
    elif PyBytes_Check(key):
        p[0] = PyBytes_AS_STRING(key)
        n[0] = PyBytes_GET_SIZE(key)
    else:
        raise KeyRejected(f"a key is str or bytes, not {type(key).__name__}")
    if not 1 <= n[0] <= SHMC_KEY_MAX:
        raise KeyRejected(
            f"a key has 1 to {SHMC_KEY_MAX} bytes in UTF-8; this one has {n[0]}"
        )
    return 0


cdef inline int refuse_space(object key) except -1:
    """KeyRejected, if it is a namespace's."""
    cdef const char *p
    cdef Py_ssize_t n
    read_key(key, &p, &n)
    if p[0] == 0x1F:
        raise KeyRejected(f"key {key!r}: keys that begin with \\x1f are namespaces'")
    return 0


cdef int read_tags(object tags, uint32_t *out) except -1:
    """How many there are; ValueError if a record cannot bear them."""
    cdef int n = 0
    for tag in tags:  # of whatever length it says it is
        if n == <int>SHMC_TAGS_MAX:
            raise ValueError(f"a record bears at most {SHMC_TAGS_MAX} tags")
        out[n] = tag
        n += 1
    return n


cdef inline object place(uint32_t at):
    return None if at == SHMC_NOWHERE else at


cdef dict geometry_dict(const shmc_geometry *g):
    return {
        "size": g.size, "shards": g.shards, "extent_bytes": g.extent_bytes,
        "buckets": g.buckets, "ghost_buckets": g.ghost_buckets,
        "claim_sets": g.claim_sets, "key_stripes": g.key_stripes,
        "tag_stripes": g.tag_stripes, "record_bytes": g.record_bytes,
        "outbox_bytes": g.outbox_bytes,
    }


cdef int make_plan(uint64_t size, uint32_t record_bytes, uint32_t shards,
                   shmc_geometry *g) except -1:
    if shmc_plan(size, record_bytes, shards, g) != SHMC_OK:
        raise SegmentError(f"a segment of {size} bytes is too small: 512 KiB at least")
    return 0


def plan(uint64_t size, uint32_t record_bytes, uint32_t shards=0):
    cdef shmc_geometry g
    make_plan(size, record_bytes, shards, &g)
    return geometry_dict(&g)


def layout_hash():
    return shmc_layout_hash()


def clock_cost(int calls=1000):
    cdef int i
    cdef int64_t began = boottime(), now = began
    for i in range(calls):
        now = boottime()
    return (now - began) / <double>calls


def tag_number(name):
    cdef const char *p
    cdef Py_ssize_t n
    if isinstance(name, str):
        name = name.encode()
    p = name
    n = len(name)
    return shmc_tag_number(p, n)


def init(buffer, *, uint64_t size, uint32_t record_bytes, bytes seed, bytes boot_id,
         uint64_t clock_ns, uint64_t config, uint32_t uid, uint32_t shards=0):
    cdef Py_buffer view
    cdef shmc_geometry g
    cdef shmc_identity who
    cdef uint64_t key[2]
    cdef int rc
    if len(seed) != 16 or len(boot_id) != 16:
        raise ValueError("seed and boot_id are 16 bytes each")
    make_plan(size, record_bytes, shards, &g)
    memcpy(key, PyBytes_AS_STRING(seed), 16)
    memset(&who, 0, sizeof(who))
    who.clock_ns = clock_ns
    who.config = config
    who.uid = uid
    memcpy(who.boot_id, PyBytes_AS_STRING(boot_id), 16)
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    try:
        if <uint64_t>view.len < g.size:
            raise SegmentError(f"a buffer of {view.len} bytes cannot hold {g.size}")
        rc = shmc_init(view.buf, &g, &who, key)
    finally:
        PyBuffer_Release(&view)
    if rc != SHMC_OK:
        raise SegmentError("this system has no robust process-shared locks")


def describe(buffer):
    cdef Py_buffer view
    cdef const shmc_header *h
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        h = <const shmc_header *>view.buf
        if view.len < <Py_ssize_t>sizeof(shmc_header) \
                or memcmp(h.magic, b"SHMCACHE", 8):
            return None
        return {
            "ready": h.state == 1,
            "layout": h.layout,
            "layout_hash": h.layout_hash,
            "boot_id": PyBytes_FromStringAndSize(<const char *>h.identity.boot_id, 16),
            "clock_ns": h.identity.clock_ns,
            "config": h.identity.config,
            "uid": h.identity.uid,
            "geometry": geometry_dict(&h.geometry),
            "regions": {
                PyBytes_FromStringAndSize(h.regions[i].name, 16)
                .rstrip(b"\0").decode("latin-1"):
                    (h.regions[i].offset, h.regions[i].length, h.regions[i].version)
                for i in range(SHMC_REGIONS) if h.regions[i].name[0]
            },
        }
    finally:
        PyBuffer_Release(&view)


cdef class Mapping:
    cdef void *at
    cdef Py_ssize_t n

    def __cinit__(self, int fd, Py_ssize_t size):
        cdef void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if at == MAP_FAILED:
            PyErr_SetFromErrno(OSError)
        self.at = at
        self.n = size

    def __dealloc__(self):
        if self.at is not NULL:
            munmap(self.at, self.n)

    def __len__(self):
        return self.n

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.at, self.n, False, flags)

    def advise(self, int advice):
        if madvise(self.at, self.n, advice):
            PyErr_SetFromErrno(OSError)


cdef class Words:
    cdef shmc_word *at
    cdef Py_ssize_t n
    cdef bint read_only
    cdef object table  # whose mapping this points into

    def __init__(self):
        raise TypeError("Words come from Table.words")

    def __len__(self):
        return self.n

    cdef shmc_word *word(self, Py_ssize_t i, bint write) except NULL:
        if not 0 <= i < self.n:
            raise IndexError(i)
        if write and self.read_only:
            raise SegmentError("the segment is attached for reading only")
        return self.at + i

    def load(self, Py_ssize_t i):
        return shmc_word_load(self.word(i, False))

    def store(self, Py_ssize_t i, uint64_t value):
        shmc_word_store(self.word(i, True), value)

    def add(self, Py_ssize_t i, uint64_t n):
        return shmc_word_add(self.word(i, True), n)

    def cas(self, Py_ssize_t i, uint64_t old, uint64_t new):
        return shmc_word_cas(self.word(i, True), old, new) != 0

    def lift(self, Py_ssize_t i, uint64_t value):
        shmc_raise(self.word(i, True), value)


cdef class Table:
    cdef public double early  # first: beside what every call reads anyway
    cdef public bint unsure
    cdef uint32_t hit_counter
    cdef shmc t
    cdef readonly dict geometry
    cdef readonly object value_max
    cdef readonly int slot
    cdef readonly int incarnation
    cdef Py_buffer *lent  # of one for reading only

    # not __init__: without its segment there is no table, not even by __new__
    def __cinit__(self, buffer, *, bint read_only=False):
        # Never released: a reader may be inside when its attachment is closed, and
        # the kernel may still write to a lock's page (table.h, Caveats). But one for
        # reading only has no locks, and goes with its table.
        cdef Py_buffer *view = <Py_buffer *>PyMem_RawCalloc(1, sizeof(Py_buffer))
        if view is NULL:
            raise MemoryError
        try:
            PyObject_GetBuffer(
                buffer, view, PyBUF_SIMPLE if read_only else PyBUF_WRITABLE
            )
        except BaseException:
            PyMem_RawFree(view)
            raise
        if shmc_attach(&self.t, view.buf, view.len, read_only) != SHMC_OK:
            self.t.base = NULL
            PyBuffer_Release(view)
            PyMem_RawFree(view)
            raise LayoutMismatch("not a segment that this build can use")
        if read_only:
            self.lent = view
        self.geometry = geometry_dict(&self.t.g)
        self.value_max = shmc_value_max(&self.t)
        self.slot = -1
        self.incarnation = 0

    def __dealloc__(self):
        if self.lent is not NULL:
            PyBuffer_Release(self.lent)
            PyMem_RawFree(self.lent)

    # ---- records

    def peek(self, key, bint spaced=True):
        cdef shmc_found f
        if not spaced:
            refuse_space(key)
        return self.served(key, lately(), &f, False)

    def peek_at(self, key, int64_t now, bint spaced=True):
        cdef shmc_found f
        if not spaced:
            refuse_space(key)
        return self.served(key, now, &f, False)

    def count_hits(self, uint32_t counter):
        if counter >= SHMC_COUNTERS:
            raise IndexError(counter)
        self.hit_counter = counter

    def hit(self, key, int64_t now=-1):
        cdef shmc_found f
        cdef bytes value = None
        if now == -1:
            now = lately()
        if not self.unsure:
            value = self.served(key, now, &f, True)
        if value is None:
            return None
        shmc_count(&self.t, self.hit_counter, 1)
        return (
            value, f.state == SHMC_STALE,
            seconds(max(0, now - f.head.birth)), seconds(f.head.fresh_until - now),
        )

    cdef bytes served(self, object key, int64_t now, shmc_found *f, bint stale):
        """The value if it is fresh, or `stale` and not dead; `f` tells of it then."""
        cdef const char *p
        cdef Py_ssize_t n
        cdef uint64_t hash_
        cdef int i, rc
        cdef bytes value
        read_key(key, &p, &n)
        hash_ = shmc_hash(&self.t, p, n)
        for i in range(READS):
            if shmc_find(&self.t, p, <uint32_t>n, hash_, now, f) != SHMC_OK \
                    or f.state != SHMC_FRESH and not (stale and f.state == SHMC_STALE) \
                    or f.head.kind & SHMC_KIND_MASK != SHMC_VALUE \
                    or self.early and self.expiring(f, now):
                return None
            value = PyBytes_FromStringAndSize(NULL, f.length)
            rc = shmc_copy(&self.t, f, PyBytes_AS_STRING(value))
            if rc == SHMC_OK:
                shmc_touch(&self.t, f)
                shmc_count(
                    &self.t,
                    SHMC_C_HITS if f.state == SHMC_FRESH else SHMC_C_STALE_HITS,
                    1,
                )
                return value
            if rc == SHMC_MISS:
                return None
        return None

    cdef bint expiring(self, const shmc_found *f, int64_t now) noexcept:
        """Whether so little of a fresh time is left that a refresh may be due."""
        return f.head.fresh_until - now < self.early * f.head.fill_us * 1000

    cdef tuple read(self, object key, int64_t now, bint touch):
        cdef const char *p
        cdef Py_ssize_t n
        cdef shmc_found f
        cdef uint64_t hash_
        cdef int i, j, rc
        cdef bytes value
        read_key(key, &p, &n)
        hash_ = shmc_hash(&self.t, p, n)
        if now == -1:
            now = boottime()
        for i in range(READS):
            if shmc_find(&self.t, p, <uint32_t>n, hash_, now, &f) != SHMC_OK:
                return None
            value = PyBytes_FromStringAndSize(NULL, f.length)
            rc = shmc_copy(&self.t, &f, PyBytes_AS_STRING(value))
            if rc == SHMC_MISS:
                return None
            if rc == SHMC_OK:
                if touch and f.state != SHMC_DEAD:
                    shmc_touch(&self.t, &f)
                return (
                    value, f.state, f.head.kind & SHMC_KIND_MASK, f.head.birth, f.head.fresh_until,
                    f.head.dead_at, f.head.stamp, f.head.nonce, f.head.fill_us,
                    tuple([f.tags[j] for j in range(f.head.ntags)]),
                )
        return None

    def get(self, key, int64_t now=-1):
        cdef tuple found = self.read(key, now, True)
        if found is None or found[1] == SHMC_DEAD:
            shmc_count(&self.t, SHMC_C_MISSES, 1)
        elif found[1] == SHMC_STALE:
            shmc_count(&self.t, SHMC_C_STALE_HITS, 1)
        return found

    def look(self, key, int64_t now=-1):
        return self.read(key, now, False)

    def put(self, key, bytes value not None, int64_t birth, int64_t fresh_until,
            int64_t dead_at, uint64_t stamp, uint64_t nonce=0, uint32_t fill_us=0,
            uint8_t kind=0, tags=(), claim=None, bint newer_only=False,
            bint raise_=False, bint absent_only=False, uint64_t if_nonce=0,
            int64_t now=-1):
        cdef shmc_store s
        cdef uint32_t numbers[SHMC_TAGS_MAX]
        cdef const char *p
        cdef Py_ssize_t n
        cdef uint64_t borne
        cdef int rc = SHMC_BUSY
        self.check_writable()
        if kind > SHMC_KIND_MASK:
            raise ValueError(f"a kind is at most {SHMC_KIND_MASK}")
        if now == -1:
            now = lately()
        read_key(key, &p, &n)
        if PyBytes_GET_SIZE(value) > <Py_ssize_t>0xffffffff:
            return SHMC_TOO_LARGE
        s.key = p
        s.key_len = <uint32_t>n
        s.value = PyBytes_AS_STRING(value)
        s.value_len = <uint32_t>PyBytes_GET_SIZE(value)
        s.birth = birth
        s.fresh_until = fresh_until
        s.dead_at = dead_at
        s.stamp = stamp
        s.nonce = nonce
        s.fill_us = fill_us
        s.kind = kind
        s.ntags = <uint8_t>read_tags(tags, numbers)
        s.tags = numbers
        s.claim = SHMC_NO_CLAIM
        s.claim_word = 0
        if claim is not None:
            s.claim = self.claim_index(claim[0])
            s.claim_word = claim[1]
        s.newer_only = newer_only
        s.absent_only = absent_only
        s.if_nonce = if_nonce
        s.raise_ = raise_
        s.wait = False
        if s.value_len <= LONG:
            rc = shmc_put(&self.t, &s, now, &borne)
        if rc == SHMC_BUSY:  # waiting, and long copies, without the interpreter's lock
            s.wait = True
            with nogil:
                rc = shmc_put(&self.t, &s, now, &borne)
        return rc

    def drop(self, key, uint64_t floor=0, uint64_t keep_nonce=0):
        cdef const char *p
        cdef Py_ssize_t n
        cdef int rc
        self.check_writable()
        read_key(key, &p, &n)
        rc = shmc_drop(&self.t, p, <uint32_t>n, floor, keep_nonce, False)
        if rc == SHMC_BUSY:
            with nogil:
                rc = shmc_drop(&self.t, p, <uint32_t>n, floor, keep_nonce, True)
        return rc

    # ---- invalidation clock

    cdef uint64_t hash_of(self, object key) except? 0:
        cdef const char *p
        cdef Py_ssize_t n
        read_key(key, &p, &n)
        return shmc_hash(&self.t, p, n)

    cdef int check_writable(self) except -1:
        if self.t.read_only:
            raise SegmentError("the segment is attached for reading only")
        return 0

    def clock(self):
        return shmc_clock(&self.t)

    def number(self):
        self.check_writable()
        return shmc_number(&self.t)

    def raise_key(self, key, uint64_t number, bint soft=False):
        self.check_writable()
        shmc_raise_key(&self.t, self.hash_of(key), number, soft)

    def raise_tag(self, uint32_t tag, uint64_t number, bint soft=False):
        self.check_writable()
        shmc_raise(shmc_tag_stripe(&self.t, tag, soft), number)

    def raise_all(self, uint64_t number, bint soft=False):
        self.check_writable()
        shmc_raise(
            &self.t.header.clear_soft if soft else &self.t.header.clear_hard, number
        )

    def raise_gap(self, uint64_t number, int64_t now=-1):
        self.check_writable()
        shmc_raise_gap(&self.t, number, boottime() if now == -1 else now)

    def highest(self, key, tags=(), bint soft=False):
        cdef uint32_t numbers[SHMC_TAGS_MAX]
        cdef int n = read_tags(tags, numbers)
        return shmc_highest(&self.t, self.hash_of(key), numbers, n, soft)

    # ---- outbox

    def outbox_add(self, int kind, bytes name not None, int64_t now=-1):
        cdef uint64_t number = 0
        cdef const char *p = PyBytes_AS_STRING(name)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(name)
        cdef int rc
        self.check_writable()
        if not 1 <= kind <= 255 or n > <Py_ssize_t>SHMC_NAME_MAX:
            raise ValueError(
                f"an entry has a kind of 1 to 255 and at most {SHMC_NAME_MAX} bytes"
            )
        if now == -1:
            now = boottime()
        rc = shmc_outbox_add(&self.t, kind, p, <uint32_t>n, now, False, &number)
        if rc == SHMC_BUSY:
            with nogil:
                rc = shmc_outbox_add(&self.t, kind, p, <uint32_t>n, now, True, &number)
        return number if rc == SHMC_OK else 0

    def outbox_sent(self, uint64_t number):
        self.check_writable()
        shmc_outbox_sent(&self.t, number)

    def outbox_lowest(self):
        return shmc_outbox_lowest(&self.t)

    def outbox_unsent(self, int64_t before, Py_ssize_t limit):
        cdef shmc_entry e
        cdef uint8_t name[SHMC_NAME_ROOM]
        cdef uint64_t position = 0
        cdef list found = []
        shmc_outbox_tidy(&self.t)
        while len(found) < limit                 and shmc_outbox_next(&self.t, &position, &e, name) == SHMC_OK                 and e.at < before:
            found.append((
                e.number, e.at, e.kind,
                PyBytes_FromStringAndSize(<const char *>name, e.len),
            ))
        return found

    def outbox_overflow(self):
        return shmc_outbox_overflow(&self.t)

    def outbox_overflowed(self, uint64_t seen):
        self.check_writable()
        return shmc_outbox_overflowed(&self.t, seen) != 0

    def outbox_usage(self):
        cdef uint64_t unsent, used, capacity
        shmc_outbox_measure(&self.t, &unsent, &used, &capacity)
        return {"unsent": unsent, "bytes": used, "capacity_bytes": capacity}

    # ---- process slots

    cdef shmc_slot *slot_at(self, int i) except NULL:
        if not 0 <= i < <int>SHMC_SLOTS:
            raise IndexError(i)
        return self.t.slots + i

    def take_slot(self, int i, uint32_t pid, int64_t now=-1):
        cdef shmc_slot *s = self.slot_at(i)
        self.check_writable()
        self.incarnation = shmc_word_add(&s.incarnation, 1) & INCARNATION
        s.pid = pid
        shmc_store_time(&s.beat, boottime() if now == -1 else now)
        self.t.counters = s.counters
        self.slot = i
        return self.incarnation

    def beat(self, int64_t now=-1):
        if self.slot >= 0:
            shmc_store_time(
                &self.t.slots[self.slot].beat, boottime() if now == -1 else now
            )

    def slot_info(self, int i):
        cdef shmc_slot *s = self.slot_at(i)
        return (
            shmc_word_load(&s.incarnation) & INCARNATION, s.pid, shmc_load_time(&s.beat)
        )

    def slot_offset(self, int i):
        return <uint64_t>(<uint8_t *>self.slot_at(i) - self.t.base)

    def count(self, uint32_t counter, uint64_t n=1):
        if counter >= SHMC_COUNTERS:
            raise IndexError(counter)
        shmc_count(&self.t, counter, n)

    def counters(self, int slot=-1):
        cdef int i, first = 0, end = SHMC_SLOTS
        cdef uint32_t c
        cdef uint64_t sums[SHMC_COUNTERS]
        if slot != -1:
            self.slot_at(slot)
            first, end = slot, slot + 1
        for c in range(<uint32_t>SHMC_COUNTERS):
            sums[c] = 0
            for i in range(first, end):
                sums[c] += shmc_word_load(&self.t.slots[i].counters[c])
        return tuple([sums[c] for c in range(<uint32_t>SHMC_COUNTERS)])

    def usage(self, int shard=-1):
        cdef shmc_usage u
        if not -1 <= shard < <int>self.t.g.shards:
            raise IndexError(shard)
        shmc_measure(&self.t, SHMC_SHARDS_MAX if shard == -1 else shard, &u)
        return {
            "records": u.records, "live_bytes": u.live_bytes,
            "capacity_bytes": u.capacity_bytes, "disabled_shards": u.disabled_shards,
            "free": u.extents[SHMC_Q_FREE], "probation": u.extents[SHMC_Q_PROBATION],
            "main": u.extents[SHMC_Q_MAIN], "rewrites": u.extents[SHMC_Q_REWRITES],
        }

    def hash(self, key):
        return self.hash_of(key)

    def words(self, str region):
        cdef const shmc_region *r = shmc_find_region(&self.t, region.encode())
        cdef Words w
        if r is NULL:
            raise SegmentError(f"the segment has no region {region!r}")
        w = Words.__new__(Words)
        w.at = <shmc_word *>(self.t.base + r.offset)
        w.n = r.length // 8
        w.read_only = self.t.read_only
        w.table = self
        return w

    # ---- check

    cdef uint32_t shard_index(self, object shard) except 0xffffffff:
        cdef uint32_t i = shard
        if i >= self.t.g.shards:
            raise IndexError(shard)
        return i

    def check(self, shard):
        cdef shmc_report r
        cdef uint32_t i, n = self.shard_index(shard)
        cdef uint64_t *starts = <uint64_t *>PyMem_RawMalloc(
            shmc_check_words(&self.t) * sizeof(uint64_t)
        )
        if starts is NULL:
            raise MemoryError
        with nogil:
            shmc_check(&self.t, n, starts, &r)
        PyMem_RawFree(starts)
        return {
            "faults": [
                (FAULTS[r.faults[i].kind], place(r.faults[i].extent),
                 place(r.faults[i].offset), place(r.faults[i].slot))
                for i in range(r.told)
            ],
            "found": {FAULTS[i]: r.found[i] for i in range(<uint32_t>SHMC_F_KINDS)
                      if r.found[i]},
            "disabled": r.disabled, "orphaned": r.orphaned,
            "unsettled": r.unsettled, "drifted": r.drifted,
            "drift_records": r.drift_records, "drift_bytes": r.drift_bytes,
            "records": r.records, "live_bytes": r.live_bytes,
            "filled_bytes": r.filled_bytes, "pieces": r.pieces, "chains": r.chains,
            "broken_chains": r.broken_chains, "missing_pieces": r.missing_pieces,
            "orphan_pieces": r.orphan_pieces, "ghosts": r.ghosts,
            "free": r.extents[SHMC_Q_FREE], "probation": r.extents[SHMC_Q_PROBATION],
            "main": r.extents[SHMC_Q_MAIN], "rewrites": r.extents[SHMC_Q_REWRITES],
        }

    def check_stripes(self):
        cdef shmc_stripes s
        with nogil:
            shmc_check_stripes(&self.t, &s)
        return s.above_clock, s.above_top

    def check_outbox(self):
        cdef shmc_outbox_report r
        cdef uint32_t i
        with nogil:
            shmc_check_outbox(&self.t, &r)
        return {
            "found": {OUTBOX_FAULTS[i]: r.found[i]
                      for i in range(<uint32_t>SHMC_O_KINDS) if r.found[i]},
            "disabled": r.disabled, "orphaned": r.orphaned,
            "entries": r.entries, "unsent": r.unsent, "lost": r.lost,
        }

    def records(self, shard, uint32_t first, uint32_t end, *, wanted=None,
                int64_t now=-1):
        cdef shmc_listed r
        cdef uint32_t slot, n = self.shard_index(shard)
        cdef list found = []
        if now == -1:
            now = boottime()
        for slot in range(first, min(end, self.t.g.buckets * 8)):
            if shmc_list(&self.t, n, slot, now, &r) != SHMC_OK:
                continue
            if wanted is not None and r.hash >> 32 not in wanted:
                continue
            found.append((
                PyBytes_FromStringAndSize(<const char *>r.key, r.head.key_len),
                r.hash, r.length, r.state, r.head.kind & SHMC_KIND_MASK,
                r.head.birth, r.head.fresh_until, r.head.dead_at, r.head.fill_us,
            ))
        return found

    # ---- claims

    cdef uint32_t claim_index(self, object index) except 0xffffffff:
        cdef uint32_t i = index
        if i >= self.t.g.claim_sets * SHMC_CLAIM_WAYS:
            raise IndexError(index)
        return i

    cdef uint32_t own_slot(self) except 0xffffffff:
        if self.slot < 0:
            raise SegmentError("a claim needs a process slot: take_slot first")
        return self.slot

    def claim_take(self, key):
        cdef uint32_t index = 0
        cdef uint64_t word = 0, wake = 0
        cdef int rc = shmc_claim_take(
            &self.t, self.hash_of(key), self.own_slot(), &index, &word, &wake
        )
        return rc, index, word, wake

    def claim_over(self, index, uint64_t seen):
        cdef uint64_t word = 0, wake = 0
        cdef int rc = shmc_claim_over(
            &self.t, self.claim_index(index), seen, self.own_slot(), &word, &wake
        )
        return rc, word, wake

    def claim_free(self, index, uint64_t word, uint32_t state):
        cdef uint64_t wake = 0
        cdef int rc
        if state > 7 or state == SHMC_TENTATIVE or state == SHMC_HELD:
            raise ValueError("a claim is freed into one of the states FREED...")
        self.check_writable()
        rc = shmc_claim_free(&self.t, self.claim_index(index), word, state, &wake)
        return rc, wake

    def claim_note(self, index, uint64_t word, uint64_t stamp, int64_t deadline,
                   bytes token=b""):
        cdef uint64_t words[2]
        if len(token) not in (0, 16):
            raise ValueError("a token is 16 bytes, or none")
        self.check_writable()
        words[0] = words[1] = 0
        memcpy(words, PyBytes_AS_STRING(token), PyBytes_GET_SIZE(token))
        return shmc_claim_note(
            &self.t, self.claim_index(index), word, stamp, deadline, words
        )

    def claim_noted(self, index, uint64_t word):
        cdef uint64_t stamp
        cdef uint64_t words[2]
        cdef int64_t deadline
        if shmc_claim_noted(&self.t, self.claim_index(index), word, &stamp, &deadline,
                            words) != SHMC_OK:
            return None
        if words[0] == 0 and words[1] == 0:
            return stamp, deadline, b""
        return stamp, deadline, PyBytes_FromStringAndSize(<const char *>words, 16)

    def claim_void(self, index, uint64_t word, key):
        return shmc_claim_void(
            &self.t, self.claim_index(index), word, self.hash_of(key)
        ) != 0

    def claim_wait(self, index, uint64_t word):
        return shmc_claim_wait(
            &self.t, self.claim_index(index), word, self.own_slot()
        ) == SHMC_OK

    def claim_word(self, index):
        return shmc_claim_word(&self.t, self.claim_index(index))

    @staticmethod
    def claim_parts(uint64_t word):
        return (
            word & 7, word >> 3 & 0x1ff, word >> 12 & INCARNATION,
            word >> 24 & 0xfffff, word >> 44,
        )
