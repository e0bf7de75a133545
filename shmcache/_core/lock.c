/* lock.c: the lock of a shard's writers, and what becomes of a dead one's. */
#define _GNU_SOURCE             /* pthread_mutex_clocklock */
#include "inner.h"

#include <errno.h>
#include <time.h>

#define WAIT_NS 2000000ll       /* longest wait for a lock */
#define TRY_NS 100000000ll      /* after a time-out: only try for so long */
#define DISABLED 1u
#define WIPING 2u

/* Empty a shard's index: none of its records is found any more. */
static void clear_index(shmc *t, uint32_t shard)
{
    size_t words = (size_t)t->g.buckets * SHMC_WAYS;
    shmc_word *index = t->index + shard * words;

    for (size_t i = 0; i < words; i++) {
        SHMC_STEP("clear.word");
        atomic_store_explicit(&index[i], 0, memory_order_release);
    }
}

/* Give up a shard's records because its headers contradict each other. Every
 * generation is raised, none reset; the mark makes a killed wipe start over.
 * Under the shard's lock.
 */
void shmc_wipe(shmc *t, uint32_t shard)
{
    shmc_shard *s = &t->shards[shard];

    SHMC_SET(s->disabled, WIPING);
    SHMC_STEP("wipe.mark");
    clear_index(t, shard);
    SHMC_STEP("wipe.index");
    SHMC_SET(s->victim, SHMC_NO_EXTENT);
    SHMC_STEP("wipe.victim");
    for (uint32_t e = 0; e < SHMC_EXTENTS; e++) {
        shmc_raise_generation(s, e);
        SHMC_STEP("wipe.generation");
        shmc_reset_extent(s, e);
        SHMC_SET(s->extents[e].age, 0);         /* `opened` may be what lied */
    }
    for (int q = 0; q < SHMC_QUEUES; q++)
        SHMC_SET(s->open[q], SHMC_NO_EXTENT);
    SHMC_SET(s->rest, SHMC_NO_EXTENT);
    SHMC_STEP("wipe.reset");
    SHMC_SET(s->disabled, 0);
    SHMC_STEP("wipe.done");
    shmc_count(t, SHMC_C_SHARDS_WIPED, 1);
}

/* Whether an extent's header is one that a writer can have left. */
static int extent_sane(const shmc *t, const shmc_shard *s, uint32_t e)
{
    const shmc_extent *x = &s->extents[e];

    return x->queue < SHMC_QUEUES && shmc_fill_sane(t, x)
        && x->age <= s->opened;
}

/* Whether a shard's headers agree with each other, as every killed writer
 * leaves them. Looks at the headers alone: a recount of records would hold the
 * lock long.
 */
static int consistent(const shmc *t, const shmc_shard *s)
{
    if (s->disabled || s->victim > SHMC_NO_EXTENT
        || s->rest > SHMC_NO_EXTENT)
        return 0;
    for (uint32_t e = 0; e < SHMC_EXTENTS; e++)
        if (!extent_sane(t, s, e))
            return 0;
    for (uint32_t q = 0; q < SHMC_QUEUES; q++) {
        uint32_t e = s->open[q];
        if (e > SHMC_NO_EXTENT
            || (e < SHMC_NO_EXTENT
                && (s->extents[e].queue != q
                    || s->extents[e].fill < SHMC_FIRST)))
            return 0;
    }
    return 1;
}

/* Give up a shard whose lock cannot be given back: empty its index, so that all
 * its reads miss, and raise its generations. No writer can be inside.
 */
static int disable(shmc *t, uint32_t shard)
{
    shmc_shard *s = &t->shards[shard];

    if (SHMC_GET(s->disabled) == DISABLED)
        return SHMC_DISABLED;
    clear_index(t, shard);
    SHMC_STEP("disable.index");
    for (uint32_t e = 0; e < SHMC_EXTENTS; e++)
        atomic_fetch_add(&s->generations[e], 1);
    SHMC_STEP("disable.generations");
    SHMC_SET(s->disabled, DISABLED);
    return SHMC_DISABLED;
}

/* Take over the lock of a writer that died. Nothing needs mending by
 * construction and nothing is recounted; killed in here, the next one starts
 * over. A lock that cannot be made consistent disables its shard.
 */
static int recover(shmc *t, uint32_t shard)
{
    shmc_shard *s = &t->shards[shard];

    SHMC_STEP("recover");
    if (!consistent(t, s))
        shmc_wipe(t, shard);
    SHMC_STEP("recover.checked");
    if (SHMC_FAILS("recover.consistent")
        || pthread_mutex_consistent(&s->lock)) {
        disable(t, shard);      /* while it is ours: killed in here as above */
        pthread_mutex_unlock(&s->lock);         /* not recoverable for ever */
        return SHMC_DISABLED;
    }
    SHMC_STEP("recover.done");
    shmc_count(t, SHMC_C_LOCKS_RECOVERED, 1);
    return SHMC_OK;
}

static int64_t monotonic(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* Wait for a lock that was not to be had at once. An errno as of the lock's. */
static int wait_lock(shmc *t, pthread_mutex_t *lock, int64_t *try_until)
{
    int64_t now = monotonic(), end = now + WAIT_NS;
    struct timespec ts = {end / 1000000000, end % 1000000000};

    if (now < *try_until)
        return EBUSY;
    int rc = pthread_mutex_clocklock(lock, CLOCK_MONOTONIC, &ts);
    if (rc == ETIMEDOUT) {
        *try_until = monotonic() + TRY_NS;
        shmc_count(t, SHMC_C_LOCK_TIMEOUTS, 1);
    }
    return rc;
}

/* Take a lock: try first; with `wait`, then wait, at most 2 ms, and after a
 * time-out only try it for 100 ms, until *try_until. 0 or an errno: EBUSY and
 * ETIMEDOUT where it is not to be had, EOWNERDEAD where it is, of a dead process.
 */
int shmc_take(shmc *t, pthread_mutex_t *lock, int64_t *try_until, int wait)
{
    int rc = pthread_mutex_trylock(lock);

    return rc == EBUSY && wait ? wait_lock(t, lock, try_until) : rc;
}

/* Take a shard's lock as shmc_take does. SHMC_OK, SHMC_BUSY, SHMC_DISABLED. The
 * lock of a disabled shard is not tried: glibc's trylock says once that it is
 * not recoverable, and leaves it locked for ever.
 */
int shmc_lock(shmc *t, uint32_t shard, int wait)
{
    if (SHMC_GET(t->shards[shard].disabled) == DISABLED)
        return SHMC_DISABLED;
    switch (shmc_take(t, &t->shards[shard].lock, &t->try_until[shard], wait)) {
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
