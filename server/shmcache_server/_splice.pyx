# cython: language_level=3, boundscheck=False, wraparound=False
# cython: initializedcheck=False, cdivision=True, embedsignature=False
"""The answer to a hit in one piece: stored head, what is told of it, stored body."""

from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
)
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from libc.string cimport memchr, memcmp, memcpy

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void *data, size_t size, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL

from .key import KEY_MAX
from .rfc9111 import status
from .stored import BODY_KEY, MARK

cdef bytes MARKED = MARK
cdef bytes AGE, TOLD, END
AGE, TOLD = status.FIELDS.replace("%s", status.HIT).encode().split(b"%d", 1)
TOLD, END = TOLD.split(b"%d")
END += b"\r\n"  # the head's

cdef enum:
    DIGITS = 20
    FIXED = 18  # bytes of a document before what is of any length
    TARGET = 4  # where that of a GET begins
    ENDS = 11  # bytes of the end of a request line
    LINE = TARGET + 1 + ENDS
cdef Py_ssize_t NAME = BODY_KEY, KEY_BYTES = KEY_MAX
cdef const char *LINE_END = b" HTTP/1.1\r\n"


cdef inline Py_ssize_t offset(const unsigned char *at) noexcept:
    """Big-endian."""
    return (<Py_ssize_t>at[0] << 24) | (at[1] << 16) | (at[2] << 8) | at[3]


cdef inline int decimal(int64_t n, char *digits) noexcept:
    """Write `n` to the end of DIGITS bytes; how many it took."""
    cdef int at = DIGITS
    cdef bint negative = n < 0
    if negative:
        n = -n
    while True:
        at -= 1
        digits[at] = <char>(48 + n % 10)
        n //= 10
        if n == 0:
            break
    if negative:
        at -= 1
        digits[at] = 45
    return DIGITS - at


cdef inline char *append(char *out, const void *data, Py_ssize_t size) noexcept:
    memcpy(out, data, size)
    return out + size


def splice(bytes document not None, int64_t age, int64_t ttl, bint body=True):
    cdef const char *p = PyBytes_AS_STRING(document)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(document)
    cdef Py_ssize_t head, ends, begins
    cdef char[DIGITS] aged
    cdef char[DIGITS] left
    cdef int aged_digits, left_digits
    cdef bytes answer
    cdef char *out
    if size < FIXED or memcmp(p, PyBytes_AS_STRING(MARKED), 4) != 0:
        return None
    head = offset(<const unsigned char *>p + 7)
    begins = offset(<const unsigned char *>p + 14)
    ends = begins - NAME
    if not FIXED <= head <= ends or begins > size:
        return None
    if offset(<const unsigned char *>p + begins - 4) != size - begins \
            or memcmp(p + ends, "\xa1b\xc6", 3) != 0:
        return None  # not whole
    aged_digits = decimal(age, aged)
    left_digits = decimal(ttl, left)
    answer = PyBytes_FromStringAndSize(
        NULL,
        ends - head + PyBytes_GET_SIZE(AGE) + aged_digits + PyBytes_GET_SIZE(TOLD)
        + left_digits + PyBytes_GET_SIZE(END) + (size - begins if body else 0),
    )
    out = PyBytes_AS_STRING(answer)
    out = append(out, p + head, ends - head)
    out = append(out, PyBytes_AS_STRING(AGE), PyBytes_GET_SIZE(AGE))
    out = append(out, aged + DIGITS - aged_digits, aged_digits)
    out = append(out, PyBytes_AS_STRING(TOLD), PyBytes_GET_SIZE(TOLD))
    out = append(out, left + DIGITS - left_digits, left_digits)
    out = append(out, PyBytes_AS_STRING(END), PyBytes_GET_SIZE(END))
    if body:
        append(out, p + begins, size - begins)
    return answer


cdef class Sender:
    cdef object transport
    cdef int fd
    cdef bint behind

    def __init__(self, transport):
        self.transport = transport
        self.behind = True
        known = transport.get_extra_info
        socket = None if known("sslcontext") is not None else known("socket")
        self.fd = -1 if socket is None else socket.fileno()

    def fall_behind(self):
        self.behind = True

    cdef send(self, bytes data):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), sent = 0
        if self.fd >= 0 \
                and not (self.behind and self.transport.get_write_buffer_size()):
            sent = send(
                self.fd, PyBytes_AS_STRING(data), size, MSG_DONTWAIT | MSG_NOSIGNAL
            )
            self.behind = sent != size
            if not self.behind:
                return
        self.transport.write(data if sent <= 0 else data[sent:])  # it tells of errors


cdef class Known:
    cdef dict blocks
    cdef object hit
    cdef Py_ssize_t longest, most
    cdef bytes last_block, last_prefix

    def __init__(self, hit, *, Py_ssize_t longest, Py_ssize_t most):
        self.blocks = {}
        self.hit = hit
        self.longest = longest
        self.most = most

    def __len__(self):
        return len(self.blocks)

    def know(self, bytes block not None, bytes prefix not None):
        self.blocks[block] = prefix

    def forget(self):
        self.blocks.clear()
        self.last_block = self.last_prefix = None

    cdef bytes prefix_of(self, const char *block, Py_ssize_t size):
        """Most requests bear the same block as the one before."""
        cdef PyObject *prefix
        if self.last_block is None or size != PyBytes_GET_SIZE(self.last_block) \
                or memcmp(block, PyBytes_AS_STRING(self.last_block), size) != 0:
            given = PyBytes_FromStringAndSize(block, size)
            prefix = PyDict_GetItem(self.blocks, given)
            if prefix is NULL:
                return None
            self.last_block, self.last_prefix = given, <bytes>prefix
        return self.last_prefix

    def answer(self, bytes data not None, Sender sender not None):
        cdef const char *p = PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), n, target, before
        cdef const char *space
        cdef bytes prefix, key, answer
        cdef char *out
        if not LINE <= size <= self.longest or memcmp(p, "GET /", 5) != 0:
            return None
        space = <const char *>memchr(p + TARGET, 32, size - TARGET)
        if space is NULL or p + size - space < ENDS \
                or memcmp(space, LINE_END, ENDS) != 0:
            return None
        target = space - p - TARGET
        for n in range(TARGET, TARGET + target):
            if not 33 <= p[n] <= 126 or p[n] == 35:  # visible ASCII but `#`
                return None
        prefix = self.prefix_of(space, p + size - space)
        if prefix is None:
            return None
        before = PyBytes_GET_SIZE(prefix)
        if before + target > KEY_BYTES:
            return None
        key = PyBytes_FromStringAndSize(NULL, before + target)
        out = append(PyBytes_AS_STRING(key), PyBytes_AS_STRING(prefix), before)
        append(out, p + TARGET, target)
        found = self.hit(key)
        if found is None:
            return False
        document, stale, age, ttl = <tuple>found
        if stale or PyBytes_GET_SIZE(document) > self.most:
            return found
        answer = splice(document, age, ttl)
        if answer is None:
            return None
        sender.send(answer)
        return True
