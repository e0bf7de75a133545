/* extent.c: the extents' life and the shard's lock.
 *
 * An extent is free, then open (appended to), then full, then emptied as a
 * whole. Nothing links extents: the oldest is found by a scan of the shard's
 * headers, so a writer killed between any two steps leaves nothing half
 * linked. The order of the steps keeps each header valid by itself.
 */
#define _GNU_SOURCE             /* pthread_mutex_clocklock */
#include "inner.h"

#include <errno.h>
#include <time.h>

#define WAIT_NS 2000000ll       /* longest wait for a shard's lock */
#define TRY_NS 100000000ll      /* after a time-out: only try for so long */
#define WIPING 2u

static shmc_extent *extent_of(shmc *t, uint32_t shard, uint32_t e)
{
    return &t->shards[shard].extents[e];
}

/* Book `bytes` of one record as live in an extent. */
void shmc_keep(shmc_shard *s, uint32_t extent, uint32_t bytes)
{
    shmc_extent *x = &s->extents[extent];

    SHMC_SET(x->live_bytes, x->live_bytes + bytes);
    SHMC_SET(x->live_records, x->live_records + 1);
}

/* Book the record of a slot word as gone. Counts never fall below zero: a
 * killed writer may have left them short.
 */
void shmc_forget(shmc *t, uint32_t shard, uint64_t word)
{
    uint32_t offset = shmc_word_offset(word);
    shmc_extent *x = extent_of(t, shard, shmc_word_extent(word));

    if (offset + sizeof(shmc_record) > x->fill)
        return;
    const shmc_record *r = (const shmc_record *)
        shmc_at(t, shard, shmc_word_extent(word), offset);
    SHMC_SET(x->live_bytes,
             x->live_bytes > r->bytes ? x->live_bytes - r->bytes : 0);
    SHMC_SET(x->live_records, x->live_records ? x->live_records - 1 : 0);
}

/* Whether an extent's fill mark is one that appends can have left. */
static int fill_sane(const shmc *t, const shmc_extent *x)
{
    return x->fill <= t->g.extent_bytes && x->fill % 8 == 0;
}

/* Whether the record at `offset` lies, with all its parts, below the fill
 * mark.
 */
static int record_sane(const shmc_record *r, uint32_t offset, uint32_t fill)
{
    uint64_t parts = sizeof *r + 4ull * r->ntags + r->key_len
        + (uint64_t)r->value_len;

    return r->bytes % 8 == 0 && r->bytes <= fill - offset && parts <= r->bytes
        && r->ntags <= SHMC_TAGS_MAX && r->key_len >= 1
        && r->key_len <= SHMC_KEY_MAX;
}

/* Count why a record goes: it was invalidated, it had expired, or for room. */
static void count_gone(shmc *t, const shmc_record *r, uint64_t hash,
                       int64_t now)
{
    int state = shmc_judge(t, r, (const uint32_t *)(r + 1), hash, now);

    shmc_count(t, state == SHMC_MISS ? SHMC_C_INVALIDATED
               : state == SHMC_DEAD ? SHMC_C_EXPIRED : SHMC_C_EVICTED, 1);
}

/* Clear the slot of the record at `offset`, if one of its key's slots means
 * it.
 */
static void clear_slot(shmc *t, uint32_t shard, uint32_t e, uint32_t offset,
                       int64_t now)
{
    const shmc_record *r = (const shmc_record *)shmc_at(t, shard, e, offset);
    const uint8_t *key = (const uint8_t *)(r + 1) + 4 * r->ntags;
    uint64_t hash = shmc_hash(t, key, r->key_len), word;
    shmc_place at;

    shmc_place_of(t, hash, &at);
    word = shmc_slot_word(shmc_load(&t->shards[shard].generations[e]), e,
                          offset, at.print);
    for (int i = 0; i < 2 * (int)SHMC_WAYS; i++) {
        shmc_word *slot = &at.bucket[i / SHMC_WAYS][i % SHMC_WAYS];
        if (!shmc_word_same(shmc_load(slot), word))
            continue;
        atomic_exchange_explicit(slot, 0, memory_order_release);
        count_gone(t, r, hash, now);
        return;
    }
}

/* Raise an extent's generation. Its slots are cleared: no reader that loads the
 * slot after the generation can mean the bytes that will be written next.
 */
static void raise_generation(shmc_shard *s, uint32_t e)
{
    shmc_store_before(&s->generations[e], shmc_load(&s->generations[e]) + 1);
}

/* Make an extent's header that of a free one. */
static void reset(shmc_shard *s, uint32_t e)
{
    shmc_extent *x = &s->extents[e];

    for (int q = 0; q < 4; q++)
        if (s->open[q] == e)
            SHMC_SET(s->open[q], SHMC_NO_EXTENT);
    SHMC_SET(x->queue, SHMC_Q_FREE);
    SHMC_SET(x->fill, 0);
    SHMC_SET(x->live_bytes, 0);
    SHMC_SET(x->live_records, 0);
}

/* Give up a shard's records because its headers contradict each other. Every
 * generation is raised, none reset; the mark makes a killed wipe start over.
 */
static void wipe(shmc *t, uint32_t shard)
{
    shmc_shard *s = &t->shards[shard];
    size_t words = (size_t)t->g.buckets * SHMC_WAYS;
    shmc_word *index = t->index + shard * words;

    SHMC_SET(s->disabled, WIPING);
    for (size_t i = 0; i < words; i++)
        atomic_store_explicit(&index[i], 0, memory_order_release);
    SHMC_STEP("wipe.index");
    for (uint32_t e = 0; e < SHMC_EXTENTS; e++) {
        raise_generation(s, e);
        reset(s, e);
    }
    for (int q = 0; q < 4; q++)
        SHMC_SET(s->open[q], SHMC_NO_EXTENT);
    SHMC_SET(s->extents[SHMC_EXTENTS - 1].queue, SHMC_Q_RESERVE);
    SHMC_STEP("wipe.reset");
    SHMC_SET(s->disabled, 0);
    shmc_count(t, SHMC_C_SHARDS_WIPED, 1);
}

/* Empty an extent: clear the slots of its records, raise its generation, free
 * it. A header that no append can have left wipes the shard.
 */
static void empty(shmc *t, uint32_t shard, uint32_t e, int64_t now)
{
    shmc_shard *s = &t->shards[shard];
    uint32_t fill = s->extents[e].fill, offset = SHMC_FIRST;

    if (!fill_sane(t, &s->extents[e])) {
        wipe(t, shard);
        return;
    }
    SHMC_STEP("empty");
    while (offset < fill) {
        const shmc_record *r =
            (const shmc_record *)shmc_at(t, shard, e, offset);
        if (fill - offset < sizeof *r || !record_sane(r, offset, fill)) {
            wipe(t, shard);
            return;
        }
        clear_slot(t, shard, e, offset, now);
        SHMC_STEP("empty.slot");
        offset += r->bytes;
    }
    raise_generation(s, e);
    SHMC_STEP("empty.generation");
    reset(s, e);
}

/* The extent of a queue that was opened first, or SHMC_NO_EXTENT. */
static uint32_t oldest(const shmc_shard *s, uint32_t queue)
{
    uint32_t found = SHMC_NO_EXTENT;

    for (uint32_t e = 0; e < SHMC_EXTENTS; e++)
        if (s->extents[e].queue == queue
            && (found == SHMC_NO_EXTENT
                || s->extents[e].age < s->extents[found].age))
            found = e;
    return found;
}

/* A free extent; where none is, the oldest of probation is emptied for it. */
static uint32_t free_extent(shmc *t, uint32_t shard, int64_t now)
{
    static const uint32_t victims[] = {
        SHMC_Q_PROBATION, SHMC_Q_REWRITES, SHMC_Q_MAIN
    };
    shmc_shard *s = &t->shards[shard];
    uint32_t e = oldest(s, SHMC_Q_FREE);

    for (int i = 0; e == SHMC_NO_EXTENT && i < 3; i++) {
        uint32_t victim = oldest(s, victims[i]);
        if (victim != SHMC_NO_EXTENT) {
            empty(t, shard, victim, now);
            e = oldest(s, SHMC_Q_FREE);
        }
    }
    if (e == SHMC_NO_EXTENT) {  /* all in reserve: no append leaves that */
        wipe(t, shard);
        e = oldest(s, SHMC_Q_FREE);
    }
    return e;
}

/* Open a fresh extent for a queue. */
static uint32_t open_extent(shmc *t, uint32_t shard, uint32_t queue,
                            int64_t now)
{
    shmc_shard *s = &t->shards[shard];
    uint32_t e = free_extent(t, shard, now);
    shmc_extent *x = &s->extents[e];

    SHMC_SET(s->opened, s->opened + 1);
    SHMC_SET(x->age, s->opened);
    SHMC_SET(x->fill, SHMC_FIRST);
    __atomic_store_n(&x->queue, queue, __ATOMIC_RELEASE);
    SHMC_STEP("open.queue");
    __atomic_store_n(&s->open[queue - 1], e, __ATOMIC_RELEASE);
    return e;
}

/* Find room for `bytes`, which an extent can hold, in the open extent of
 * probation, evicting if need be. Sets *extent and *offset; the fill mark is
 * the caller's to publish once the bytes stand.
 */
void shmc_room(shmc *t, uint32_t shard, uint32_t bytes, int64_t now,
               uint32_t *extent, uint32_t *offset)
{
    shmc_shard *s = &t->shards[shard];
    uint32_t e = s->open[SHMC_Q_PROBATION - 1];

    if (e >= SHMC_NO_EXTENT || s->extents[e].fill < SHMC_FIRST
        || !fill_sane(t, &s->extents[e])
        || t->g.extent_bytes - s->extents[e].fill < bytes)
        e = open_extent(t, shard, SHMC_Q_PROBATION, now);
    *extent = e;
    *offset = s->extents[e].fill;
}

/* Whether a shard's headers agree with each other, as every killed writer
 * leaves them. Looks at the headers alone: a recount of records would hold the
 * lock long.
 */
static int consistent(const shmc *t, const shmc_shard *s)
{
    for (uint32_t e = 0; e < SHMC_EXTENTS; e++) {
        const shmc_extent *x = &s->extents[e];
        if (x->queue > SHMC_Q_RESERVE || !fill_sane(t, x) || x->age > s->opened)
            return 0;
    }
    for (uint32_t q = 1; q <= 4; q++) {
        uint32_t e = s->open[q - 1];
        if (e > SHMC_NO_EXTENT
            || (e < SHMC_NO_EXTENT
                && (s->extents[e].queue != q
                    || s->extents[e].fill < SHMC_FIRST)))
            return 0;
    }
    return s->disabled == 0;
}

/* Take over the lock of a writer that died. Nothing needs mending by
 * construction and nothing is recounted; killed in here, the next one starts
 * over.
 */
static int recover(shmc *t, uint32_t shard)
{
    shmc_shard *s = &t->shards[shard];

    SHMC_STEP("recover");
    if (!consistent(t, s))
        wipe(t, shard);
    pthread_mutex_consistent(&s->lock);
    shmc_count(t, SHMC_C_LOCKS_RECOVERED, 1);
    return SHMC_OK;
}

/* A lock that nobody can have any more: empty the shard's index, so that all
 * its reads miss, and raise its generations. No writer can be inside.
 */
static int disable(shmc *t, uint32_t shard)
{
    shmc_shard *s = &t->shards[shard];
    size_t words = (size_t)t->g.buckets * SHMC_WAYS;
    shmc_word *index = t->index + shard * words;

    if (SHMC_GET(s->disabled) == 1)
        return SHMC_DISABLED;
    for (size_t i = 0; i < words; i++)
        atomic_store_explicit(&index[i], 0, memory_order_release);
    for (uint32_t e = 0; e < SHMC_EXTENTS; e++)
        atomic_fetch_add(&s->generations[e], 1);
    SHMC_SET(s->disabled, 1);
    return SHMC_DISABLED;
}

static int64_t monotonic(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* Wait for a lock that was not to be had at once. An errno as of the lock's. */
static int wait_lock(shmc *t, uint32_t shard)
{
    int64_t now = monotonic(), end = now + WAIT_NS;
    struct timespec ts = {end / 1000000000, end % 1000000000};

    if (now < t->try_until[shard])
        return EBUSY;
    int rc = pthread_mutex_clocklock(&t->shards[shard].lock, CLOCK_MONOTONIC,
                                     &ts);
    if (rc == ETIMEDOUT) {
        t->try_until[shard] = monotonic() + TRY_NS;
        shmc_count(t, SHMC_C_LOCK_TIMEOUTS, 1);
    }
    return rc;
}

/* Take a shard's lock: try first, else wait, at most 2 ms; after a time-out
 * this process only tries that shard for 100 ms. SHMC_OK, SHMC_BUSY,
 * SHMC_DISABLED.
 */
int shmc_lock(shmc *t, uint32_t shard)
{
    int rc = pthread_mutex_trylock(&t->shards[shard].lock);

    if (rc == EBUSY)
        rc = wait_lock(t, shard);
    switch (rc) {
    case 0:
        return SHMC_OK;
    case EOWNERDEAD:
        return recover(t, shard);
    case EBUSY:
    case ETIMEDOUT:
        return SHMC_BUSY;
    default:
        return disable(t, shard);
    }
}

void shmc_unlock(shmc *t, uint32_t shard)
{
    pthread_mutex_unlock(&t->shards[shard].lock);
}
