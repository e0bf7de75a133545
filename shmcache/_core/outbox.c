/* outbox.c: invalidations that are not yet known to be in Redis.
 *
 * A ring of entries, added under a lock of its own and read without one. An
 * entry is taken for there once the tail stands behind it; its room is used
 * again once the head does. So whoever reads an entry looks at the head last:
 * if that is not beyond the entry, what was read is whole.
 *
 * SENT WITHOUT THE LOCK. A sender may be told by Redis while a stopped process
 * has the lock, and must not send for ever. It swaps the one word that begins
 * the entry; no other word of the ring has that word's highest bit, and no two
 * entries have one number, so a late or a second swap finds nothing to change.
 *
 * LOWEST. Clocks never fall from one entry to the next: each is read under the
 * lock. So the clock of the first unsent entry is the lowest, and is noted in a
 * word of its own: lowered before an entry is to be seen, raised after one was
 * sent. A process killed in between leaves it too low, until the next one tidies
 * up: readers refuse some values of Redis that they might have used.
 *
 * THE MARK. What finds no room, or a lock that is not to be had in 2 ms, is not
 * kept but marked as lost: the clock of the first such, and how many, as each
 * must change the word, or
 * 1. A is lost; a sender reads the mark, and clears everything for A's sake
 * 2. B is lost, after that; the mark is A's, as it was
 * 3. the sender takes back the mark it read: nobody makes up for B
 */
#include "inner.h"

#include <errno.h>
#include <string.h>

#define HEAD_WORDS 4u           /* of an entry, before its name */
#define BYTES 7u                /* of the name, in each word */
#define BEGINS (1ull << 63)     /* highest bit of the word that begins an entry */
#define SENT (1ull << 62)
#define NUMBER (SENT - 1)
#define LOST_BITS 16            /* of the mark; the clock stands above */
#define TIDIES 4                /* what is left then, the next one does */

_Static_assert(sizeof(shmc_outbox) == 192, "what stands before the ring");

uint64_t shmc_ring_words(const shmc *t)
{
    return (t->g.outbox_bytes - sizeof(shmc_outbox)) / 8;
}

static shmc_word *word_at(const shmc *t, uint64_t position)
{
    return &t->outbox->ring[position % shmc_ring_words(t)];
}

/* Load and store a word of the ring: who sees what was put in an entry's place
 * sees the head beyond that entry too.
 */
uint64_t shmc_ring_load(const shmc *t, uint64_t position)
{
    return shmc_load(word_at(t, position));
}

static void store_at(const shmc *t, uint64_t position, uint64_t to)
{
    atomic_store_explicit(word_at(t, position), to, memory_order_release);
}

static uint64_t size_of(uint32_t len)
{
    return HEAD_WORDS + (len + BYTES - 1) / BYTES;
}

/* Read the head of the entry at a position. Its size in words, or 0: none that
 * was ever added begins there.
 */
uint64_t shmc_entry_at(const shmc *t, uint64_t position, uint64_t tail,
                       shmc_entry *out)
{
    uint64_t first = shmc_ring_load(t, position);
    uint64_t last = shmc_ring_load(t, position + 3);

    out->number = first & NUMBER;
    out->sent = (first & SENT) != 0;
    out->clock = shmc_ring_load(t, position + 1);
    out->at = (int64_t)shmc_ring_load(t, position + 2);
    out->kind = (uint8_t)(last >> 32);
    out->len = (uint32_t)last;
    if (!(first & BEGINS) || out->number != position + 1
        || (last | out->clock | (uint64_t)out->at) & BEGINS
        || out->len > SHMC_NAME_MAX || size_of(out->len) > tail - position)
        return 0;
    return size_of(out->len);
}

static void read_name(const shmc *t, uint64_t position, uint32_t len,
                      uint8_t *name)
{
    for (uint32_t i = 0; i < len; i += BYTES) {
        uint64_t word = shmc_ring_load(t, position + HEAD_WORDS + i / BYTES);
        memcpy(name + i, &word, BYTES);
    }
}

static void write_name(const shmc *t, uint64_t position, const uint8_t *name,
                       uint32_t len)
{
    for (uint32_t i = 0; i < len; i += BYTES) {
        uint64_t word = 0;
        memcpy(&word, name + i, len - i < BYTES ? len - i : BYTES);
        store_at(t, position + HEAD_WORDS + i / BYTES, word);
        SHMC_STEP("outbox.name");
    }
}

/* ---- the mark ------------------------------------------------------------ */

/* Note that an entry of that clock was lost. Takes no lock. */
static void lose(shmc *t, uint64_t clock)
{
    const uint64_t most = (1ull << LOST_BITS) - 1;
    uint64_t seen = atomic_load(&t->outbox->mark), to;

    if (clock > UINT64_MAX >> LOST_BITS)
        clock = UINT64_MAX >> LOST_BITS;        /* lower is allowed */
    SHMC_STEP("outbox.losing");
    do {
        uint64_t first = seen && seen >> LOST_BITS < clock ? seen >> LOST_BITS
            : clock, n = (seen + 1) & most;
        to = first << LOST_BITS | (n ? n : 1);
    } while (!atomic_compare_exchange_weak(&t->outbox->mark, &seen, to));
    SHMC_STEP("outbox.lost");
}

/* The mark of what was lost, 0 if nothing was. Each loss changes it. */
uint64_t shmc_outbox_overflow(const shmc *t)
{
    return atomic_load(&t->outbox->mark);
}

/* Take back the mark, if nothing was lost since it was `seen`. 1 or 0. */
int shmc_outbox_overflowed(shmc *t, uint64_t seen)
{
    return seen
        && atomic_compare_exchange_strong(&t->outbox->mark, &seen, 0);
}

/* The lowest clock of what is unsent or lost; UINT64_MAX if nothing is. */
uint64_t shmc_outbox_lowest(const shmc *t)
{
    uint64_t lowest = atomic_load(&t->outbox->lowest);
    uint64_t mark = atomic_load(&t->outbox->mark);

    return mark && mark >> LOST_BITS < lowest ? mark >> LOST_BITS : lowest;
}

/* ---- under the lock ------------------------------------------------------ */

/* Take the lock, of a dead process too: nothing needs mending by construction.
 * SHMC_OK, SHMC_BUSY, or SHMC_DISABLED: it is no lock any more.
 */
static int take(shmc *t, int wait)
{
    shmc_outbox *o = t->outbox;

    if (SHMC_GET(o->disabled))
        return SHMC_DISABLED;
    int rc = shmc_take(t, &o->lock, &t->outbox_try_until, wait);

    if (rc == 0)
        return SHMC_OK;
    if (rc == EBUSY || rc == ETIMEDOUT)
        return SHMC_BUSY;
    SHMC_STEP("outbox.recover");
    if (rc == EOWNERDEAD && !SHMC_FAILS("outbox.consistent")
        && !pthread_mutex_consistent(&o->lock)) {
        SHMC_STEP("outbox.recovered");
        shmc_count(t, SHMC_C_LOCKS_RECOVERED, 1);
        return SHMC_OK;
    }
    SHMC_SET(o->disabled, 1);
    SHMC_STEP("outbox.disabled");
    if (rc == EOWNERDEAD)
        pthread_mutex_unlock(&o->lock);
    return SHMC_DISABLED;
}

/* Begin anew where what stands there is none of ours, as if all had been lost.
 */
static void reset(shmc *t)
{
    shmc_outbox *o = t->outbox;
    uint64_t from = atomic_load(&o->tail) + shmc_ring_words(t);

    from &= NUMBER >> 2;
    lose(t, 0);
    atomic_store(&o->head, from);
    SHMC_STEP("outbox.reset");
    atomic_store(&o->tail, from);
    atomic_store(&o->lowest, UINT64_MAX);
}

/* Free the room of what was sent, and note the clock of the first that was not.
 * Leaves the ring's ends in *head and *tail.
 */
static void settle(shmc *t, uint64_t *head, uint64_t *tail)
{
    shmc_outbox *o = t->outbox;
    shmc_entry e = {.clock = UINT64_MAX};
    uint64_t from = atomic_load(&o->head), to = atomic_load(&o->tail), n = 1;
    uint64_t at = from;

    if (from > to || to - from > shmc_ring_words(t))
        n = 0;
    while (n && at < to && (n = shmc_entry_at(t, at, to, &e)) && e.sent)
        at += n;
    if (!n) {
        reset(t);
        at = from = to = atomic_load(&o->head);
    }
    if (at != from)
        atomic_store(&o->head, at);
    SHMC_STEP("outbox.head");
    uint64_t lowest = at < to ? e.clock : UINT64_MAX;
    if (atomic_load(&o->lowest) != lowest)
        atomic_store(&o->lowest, lowest);
    SHMC_STEP("outbox.lowest");
    *head = at;
    *tail = to;
}

/* Whether settling would change anything. A guess, if others are at work. */
static int untidy(const shmc *t)
{
    const shmc_outbox *o = t->outbox;
    uint64_t head = atomic_load(&o->head), tail = atomic_load(&o->tail);
    uint64_t lowest = atomic_load(&o->lowest);

    if (head >= tail)
        return head > tail || lowest != UINT64_MAX;
    return shmc_ring_load(t, head) & SENT
        || shmc_ring_load(t, head + 1) != lowest;
}

/* Settle, unless somebody has the lock: who gives it back looks again after, so
 * that what was sent meanwhile is not left.
 */
static void tidy(shmc *t)
{
    uint64_t head, tail;

    for (int i = 0; i < TIDIES && untidy(t) && take(t, 0) == SHMC_OK; i++) {
        SHMC_STEP("outbox.tidy");
        settle(t, &head, &tail);
        pthread_mutex_unlock(&t->outbox->lock);
    }
}

/* Write an entry behind the tail, then move the tail. */
static void append(shmc *t, uint64_t tail, const shmc_entry *e,
                   const void *name)
{
    shmc_outbox *o = t->outbox;

    if (atomic_load(&o->lowest) > e->clock)
        atomic_store(&o->lowest, e->clock);
    SHMC_STEP("outbox.lowered");
    write_name(t, tail, name, e->len);
    store_at(t, tail + 3, (uint64_t)e->kind << 32 | e->len);
    SHMC_STEP("outbox.kind");
    store_at(t, tail + 2, (uint64_t)e->at & ~BEGINS);
    SHMC_STEP("outbox.at");
    store_at(t, tail + 1, e->clock & ~BEGINS);
    SHMC_STEP("outbox.clock");
    store_at(t, tail, BEGINS | e->number);
    SHMC_STEP("outbox.begins");
    atomic_store(&o->tail, tail + size_of(e->len));
    SHMC_STEP("outbox.added");
}

/* Note an invalidation that is about to be made, before it takes its number.
 * SHMC_OK, with the entry's number, which is not 0; SHMC_FULL: there is no room
 * or no lock, and the mark is set in its place. Waits for the lock, with `wait`,
 * at most 2 ms; else SHMC_BUSY, and nothing was done.
 */
int shmc_outbox_add(shmc *t, uint8_t kind, const void *name, uint32_t len,
                    int64_t at, int wait, uint64_t *number)
{
    shmc_entry e = {.kind = kind, .len = len, .at = at};
    uint64_t head, tail;
    int rc = len > SHMC_NAME_MAX ? SHMC_FULL : take(t, wait);

    if (rc == SHMC_BUSY && !wait)
        return rc;
    e.clock = shmc_clock(t);
    if (rc != SHMC_OK) {
        lose(t, e.clock);
        return SHMC_FULL;
    }
    SHMC_STEP("outbox.locked");
    settle(t, &head, &tail);
    if (tail - head + size_of(len) > shmc_ring_words(t)) {
        lose(t, e.clock);
        rc = SHMC_FULL;
    } else {
        *number = e.number = tail + 1;
        append(t, tail, &e, name);
    }
    pthread_mutex_unlock(&t->outbox->lock);
    SHMC_STEP("outbox.unlocked");
    tidy(t);
    return rc;
}

/* ---- without the lock ---------------------------------------------------- */

/* Note that an entry is in Redis. Any number may be given, any time, and by any
 * number of processes. Waits for nobody.
 */
void shmc_outbox_sent(shmc *t, uint64_t number)
{
    uint64_t unsent = BEGINS | number;

    if (!number || number > NUMBER)
        return;
    atomic_compare_exchange_strong(word_at(t, number - 1), &unsent,
                                   BEGINS | SENT | number);
    SHMC_STEP("outbox.sent");
    tidy(t);
}

/* The first unsent entry at or behind *position, which is moved behind it; its
 * name, unless that is NULL, in SHMC_NAME_ROOM bytes. SHMC_OK or SHMC_MISS.
 * Begin at position 0. Takes no lock, and ends whatever stands there.
 */
int shmc_outbox_next(const shmc *t, uint64_t *position, shmc_entry *out,
                     uint8_t *name)
{
    const shmc_outbox *o = t->outbox;
    uint64_t head = atomic_load(&o->head), tail = atomic_load(&o->tail);
    uint64_t at = *position > head ? *position : head;

    for (uint64_t i = 0; i < shmc_ring_words(t) && at < tail; i++) {
        uint64_t n = shmc_entry_at(t, at, tail, out);
        if (n && name && !out->sent)
            read_name(t, at, out->len, name);
        SHMC_STEP("outbox.read");
        head = atomic_load(&o->head);
        if (head > at) {        /* what was read may be what came after */
            at = head;
            continue;
        }
        if (!n)
            break;
        at += n;
        if (!out->sent) {
            *position = at;
            return SHMC_OK;
        }
    }
    return SHMC_MISS;
}

/* Settle what a killed process may have left, unless the lock is taken. */
void shmc_outbox_tidy(shmc *t)
{
    if (!t->read_only)
        tidy(t);
}

/* Entries that are unsent, bytes in use, and bytes there are: near enough. */
void shmc_outbox_measure(const shmc *t, uint64_t *unsent, uint64_t *bytes,
                         uint64_t *capacity)
{
    uint64_t head = atomic_load(&t->outbox->head), position = 0;
    shmc_entry e;

    *unsent = 0;
    *capacity = 8 * shmc_ring_words(t);
    *bytes = 8 * (atomic_load(&t->outbox->tail) - head);
    if (*bytes > *capacity)
        *bytes = *capacity;
    while (shmc_outbox_next(t, &position, &e, NULL) == SHMC_OK)
        ++*unsent;
}
