/* test_collisions.c: keys that somebody built to collide, who knows the hash
 * but not the segment's seed, cost what any keys cost.
 */
#include "harness.h"
#include "hash.h"

enum { KEYS = 100000, CROWDED = 64 };

static uint64_t built[KEYS], any[KEYS];

/* Where a key would stand if there were no seed: keys of which all begin their
 * search in the same one in 64 of the buckets.
 */
static void build(void)
{
    static const uint64_t none[2] = {0, 0};
    uint32_t n = 0;

    for (uint64_t key = 1; n < KEYS; key++) {
        uint64_t hash = shmc_siphash(none, &key, sizeof key);
        if ((uint32_t)(hash >> 18) / (UINT32_MAX / CROWDED + 1) == 0)
            built[n++] = key;
    }
    for (uint64_t i = 0, x = 88172645463325252ull; i < KEYS; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        any[i] = x;
    }
}

/* What storing and finding all keys of a list took. */
struct cost {
    uint64_t looks;             /* at records, for their keys */
    uint64_t no_slot;           /* stores that put another record out */
    uint64_t missed;
};

static uint64_t looks;

static void count_looks(const char *at)
{
    looks += !strcmp(at, "look.slot");
}

/* Under a seed, in an index that is two thirds full in the end. */
static struct cost cost_of(const uint64_t *keys, const uint64_t seed[2])
{
    shmc_geometry g;
    shmc_identity id = {.uid = 7};
    struct cost c = {0};
    uint64_t stamp;
    shmc_found f;
    shmc t;

    CHECK(shmc_plan(24 * MIB, 64, 1, &g) == SHMC_OK);
    CHECK(g.buckets >= KEYS / SHMC_WAYS * 3 / 2);
    g.buckets = KEYS / SHMC_WAYS * 3 / 2;
    void *base = map_segment(g.size);
    CHECK(shmc_init(base, &g, &id, seed) == SHMC_OK);
    attach(&t, base, g.size);
    looks = 0;
    on_step = count_looks;
    for (uint32_t i = 0; i < KEYS; i++) {
        shmc_store s = {.key = &keys[i], .key_len = 8, .value = &keys[i],
            .value_len = 8, .fresh_until = 9, .dead_at = 9,
            .claim = SHMC_NO_CLAIM};
        CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_OK);
    }
    for (uint32_t i = 0; i < KEYS; i++)
        c.missed += shmc_find(&t, &keys[i], 8, shmc_hash(&t, &keys[i], 8), 1,
                              &f) != SHMC_OK;
    on_step = NULL;
    CHECK(!t.counters[SHMC_C_EVICTED]);
    c.looks = looks;
    c.no_slot = t.counters[SHMC_C_NO_SLOT];
    unmake(&t);
    return c;
}

static void test_keys_built_to_collide_cost_what_any_do(void)
{
    static const uint64_t none[2] = {0, 0}, seed[2] = {0x1234567, 0x89abcde};

    build();
    struct cost usual = cost_of(any, seed), attack = cost_of(built, seed);
    struct cost seedless = cost_of(built, none);
    printf(" (for want of a slot: any %lu, built %lu, without a seed %lu)",
           (unsigned long)usual.no_slot, (unsigned long)attack.no_slot,
           (unsigned long)seedless.no_slot);
    CHECK(attack.looks <= 2 * usual.looks);
    CHECK(attack.no_slot <= 2 * usual.no_slot + KEYS / 10000);
    CHECK(attack.missed <= 2 * usual.missed + KEYS / 10000);
    /* they do collide where they were built to */
    CHECK(seedless.no_slot > 20 * (usual.no_slot + KEYS / 10000));
}

static const struct test tests[] = {
    TEST(test_keys_built_to_collide_cost_what_any_do),
};

MAIN(tests)
