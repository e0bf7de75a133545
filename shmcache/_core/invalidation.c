/* invalidation.c: the invalidation clock and its stripes: they only rise. */
#include "inner.h"
#include "hash.h"

/* The clock as it stands: what a compute notes as its stamp. */
uint64_t shmc_clock(const shmc *t)
{
    return atomic_load(&t->header->clock);
}

/* Take the clock's next number. */
uint64_t shmc_number(shmc *t)
{
    return atomic_fetch_add(&t->header->clock, 1) + 1;
}

/* Raise a stripe to `number`, unless it stands there or above. */
void shmc_raise(shmc_word *stripe, uint64_t number)
{
    uint64_t seen = atomic_load(stripe);

    while (seen < number
           && !atomic_compare_exchange_weak(stripe, &seen, number))
        ;
}

static uint32_t key_index(const shmc *t, uint64_t hash)
{
    return (uint32_t)(hash >> 20) & (t->g.key_stripes - 1);
}

/* A key's stripe: stores of a stamp below it are refused. */
shmc_word *shmc_key_hard(shmc *t, uint64_t hash)
{
    return t->key_hard + key_index(t, hash);
}

/* A key's soft stripe: records of a stamp below it are stale. */
shmc_word *shmc_key_soft(shmc *t, uint64_t hash)
{
    return t->key_soft + key_index(t, hash);
}

/* A key's floor: records of a stamp below it are absent. */
shmc_word *shmc_key_floor(shmc *t, uint64_t hash)
{
    return t->key_floor + key_index(t, hash);
}

/* Raise a stripe that readers look at only where the highest of its kind stands
 * above their record. So the highest is raised first: killed in between, it
 * stands too high, which costs readers a look and hides no raise.
 */
static void raise_under(shmc_word *top, shmc_word *stripe, uint64_t number)
{
    shmc_raise(top, number);
    SHMC_STEP("raise.top");
    shmc_raise(stripe, number);
}

/* Raise a key: hard refuses stores below `number`, soft makes records stale. */
void shmc_raise_key(shmc *t, uint64_t hash, uint64_t number, int soft)
{
    if (soft)
        raise_under(&t->header->soft_top, shmc_key_soft(t, hash), number);
    else
        shmc_raise(shmc_key_hard(t, hash), number);
}

/* Raise a key's floor: what stands below `number` is absent for readers. */
void shmc_raise_floor(shmc *t, uint64_t hash, uint64_t number)
{
    raise_under(&t->header->floor_top, shmc_key_floor(t, hash), number);
}

/* The stripe of a tag's or a namespace's number. */
shmc_word *shmc_tag_stripe(shmc *t, uint32_t tag, int soft)
{
    return (soft ? t->tag_soft : t->tag_hard) + (tag & (t->g.tag_stripes - 1));
}

/* The 20-bit number of a tag or namespace. Unkeyed: the same on every host. */
uint32_t shmc_tag_number(const void *name, size_t len)
{
    static const uint64_t seed[2] = {0, 0};
    return (uint32_t)shmc_siphash(seed, name, len) & 0xfffff;
}

/* Raise the gap word: what stands below it is stale, and gone after 4 s.
 *
 * There is one gap_at, so a later gap must not make an earlier one soft again:
 * 1. a key is deleted elsewhere during gap A, its record stands here
 * 2. 4 s after A was raised the record is gone for readers
 * 3. gap B is raised: with a new gap_at the record would be served as stale
 *
 * So a gap that is hard already is noted in the clear word first, and one that
 * is still soft keeps its time. Readers load gap, gap_at, clear in this order.
 */
void shmc_raise_gap(shmc *t, uint64_t number, int64_t now)
{
    shmc_header *h = t->header;
    uint64_t before = atomic_load(&h->gap);

    if (!before || now - atomic_load(&h->gap_at) >= SHMC_GAP_SOFT_NS) {
        shmc_raise(&h->clear_hard, before);
        SHMC_STEP("gap.clear");
        atomic_store(&h->gap_at, now);
    }
    SHMC_STEP("gap.at");
    shmc_raise(&h->gap, number);
}

static void lift(uint64_t *top, const shmc_word *stripe)
{
    uint64_t one = atomic_load(stripe);

    if (one > *top)
        *top = one;
}

/* The highest hard raise that stands over a key with these tags: a store whose
 * stamp lies below is refused. With `soft`, the highest of hard and soft: what
 * was begun below is not fresh.
 */
uint64_t shmc_highest(shmc *t, uint64_t hash, const uint32_t *tags,
                      uint32_t ntags, int soft)
{
    uint64_t top = 0;

    lift(&top, &t->header->clear_hard);
    lift(&top, shmc_key_hard(t, hash));
    for (uint32_t i = 0; i < ntags; i++)
        lift(&top, shmc_tag_stripe(t, tags[i], 0));
    if (!soft)
        return top;
    lift(&top, &t->header->clear_soft);
    lift(&top, shmc_key_soft(t, hash));
    for (uint32_t i = 0; i < ntags; i++)
        lift(&top, shmc_tag_stripe(t, tags[i], 1));
    return top;
}
