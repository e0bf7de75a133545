/* ghost.c: the ghost list: fingerprints of what left probation unread.
 *
 * A key found here came back soon after it was put out, so it goes straight to
 * main. Entries are {16-bit print, 16-bit age}; the age is the shard's count of
 * evicted bytes in units of which a window holds WINDOW. An entry is expired
 * when its bucket is touched, long before its age can wrap.
 */
#include "inner.h"

#define ENTRIES 16u             /* of a bucket: one cache line */
#define WINDOW (1u << 14)       /* how old an entry may be, of 2^16 */

/* The shard's ghost clock: a window is one and a half times its capacity. */
static uint16_t clock_of(const shmc *t, const shmc_shard *s)
{
    uint64_t window = 3ull * SHMC_EXTENTS * t->g.extent_bytes / 2;

    return (uint16_t)(s->evicted_bytes / (window / WINDOW));
}

/* The bucket and the print, never 0, of a hash. */
static uint32_t *bucket_of(const shmc *t, uint32_t shard, uint64_t hash,
                           uint16_t *print)
{
    uint64_t mixed = (hash ^ hash >> 29) * 0xd6e8feb86659fd93ull;
    uint32_t n = (mixed >> 32) * t->g.ghost_buckets >> 32;

    *print = (uint16_t)mixed ? (uint16_t)mixed : 1;
    return t->ghosts + ((size_t)shard * t->g.ghost_buckets + n) * ENTRIES;
}

/* Note that the key of a hash was put out. Replaces its own entry, an expired
 * one, or the oldest.
 */
void shmc_ghost_add(shmc *t, uint32_t shard, uint64_t hash)
{
    uint16_t print, now = clock_of(t, &t->shards[shard]);
    uint32_t *b = bucket_of(t, shard, hash, &print), at = 0, oldest = 0;

    for (uint32_t i = 0; i < ENTRIES; i++) {
        uint32_t old = (uint16_t)(now - (uint16_t)(b[i] >> 16));
        if (old > WINDOW)
            b[i] = 0;
        if (!b[i] || (uint16_t)b[i] == print)
            old = (uint16_t)b[i] == print ? UINT32_MAX : UINT32_MAX - 1;
        if (old >= oldest) {
            oldest = old;
            at = i;
        }
    }
    SHMC_STEP("ghost.add");
    b[at] = (uint32_t)now << 16 | print;
}

/* Whether the key of a hash was put out lately; its entry is taken. */
int shmc_ghost_take(shmc *t, uint32_t shard, uint64_t hash)
{
    uint16_t print, now = clock_of(t, &t->shards[shard]);
    uint32_t *b = bucket_of(t, shard, hash, &print);

    for (uint32_t i = 0; i < ENTRIES; i++) {
        if ((uint16_t)b[i] != print)
            continue;
        uint16_t old = (uint16_t)(now - (uint16_t)(b[i] >> 16));
        b[i] = 0;
        SHMC_STEP("ghost.take");
        if (old <= WINDOW)
            return 1;
    }
    return 0;
}
