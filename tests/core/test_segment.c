/* test_segment.c: hash, plan, init, attach: what is made, what is refused. */
#include "harness.h"
#include "hash.h"

/* The reference vectors of SipHash-1-3 under the key 00 01 ... 0f. */
static void test_hash_matches_reference_vectors(void)
{
    static const uint64_t seed[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
    uint8_t text[8] = {0, 1, 2, 3, 4, 5, 6, 7};

    CHECK(shmc_siphash(seed, text, 0) == 0xabac0158050fc4dcull);
    CHECK(shmc_siphash(seed, text, 1) == 0xc9f49bf37d57ca93ull);
}

static void test_plan_keeps_its_bounds(void)
{
    shmc_geometry g;

    CHECK(shmc_plan(MIB / 4, 0, 0, &g) == SHMC_TOO_SMALL);
    for (uint64_t mib = 1; mib <= 64 * 1024; mib = mib * 3 / 2 + 1) {
        CHECK(shmc_plan(mib * MIB, 0, 0, &g) == SHMC_OK);
        CHECK(!(g.shards & (g.shards - 1)));
        CHECK(mib < 64 || g.shards >= 8);
        CHECK(g.extent_bytes % 64 == 0);
        CHECK(mib > 32 * 1024 || g.extent_bytes <= 512 * 1024);
        uint64_t slots = (uint64_t)g.shards * g.buckets * SHMC_WAYS;
        CHECK(slots * 270 < g.size && slots * 450 > g.size);
        CHECK(shmc_plan(mib * MIB, 60000, 0, &g) == SHMC_OK);
    }
    CHECK(shmc_plan(64 * MIB, 41000, 0, &g) == SHMC_OK);
    CHECK(g.extent_bytes >= 4 * 41000);
}

static void test_attach_refuses_what_contradicts_itself(void)
{
    shmc t, other;
    shmc_header *h = make(&t, MIB), good = *h;

    CHECK(shmc_attach(&other, h, MIB / 2, 0) == SHMC_BAD_LAYOUT);
#define REFUSED(change) do { change; \
    CHECK(shmc_attach(&other, h, MIB, 0) == SHMC_BAD_LAYOUT); \
    *h = good; } while (0)
    REFUSED(h->magic[0] = 's');
    REFUSED(h->state = 0);
    REFUSED(h->layout++);
    REFUSED(h->layout_hash++);
    REFUSED(h->geometry.size += SHMC_PAGE);
    REFUSED(h->geometry.shards = 3);
    REFUSED(h->geometry.shards = 0);
    REFUSED(h->geometry.extent_bytes += 64);
    REFUSED(h->geometry.extent_bytes = 0x80000000);
    REFUSED(h->geometry.buckets = 1);
    REFUSED(h->geometry.buckets += 4096);
    REFUSED(h->geometry.tag_stripes *= 2);
    for (uint32_t i = 0; i < SHMC_REGIONS && h->regions[i].name[0]; i++) {
        REFUSED(h->regions[i].name[0] = '?');
        REFUSED(h->regions[i].offset = ~0ull & ~4095ull);
        REFUSED(h->regions[i].offset += 8);
        REFUSED(h->regions[i].offset = 0);
        REFUSED(h->regions[i].length = 8);
        REFUSED(h->regions[i].length = ~0ull);
    }
#undef REFUSED
    strcpy(h->regions[20].name, "unknown");
    attach(&other, h, MIB);
}

/* ---- an init that did not come to its end */

static void *unfinished;

static void init_again(shmc *t)
{
    static const uint64_t seed[2] = {33, 44};
    shmc_identity id = {.uid = 7};

    CHECK(shmc_init(unfinished, &t->g, &id, seed) == SHMC_OK);
}

/* Killed anywhere before it is ready, the segment is refused, and what stands
 * there can be made anew.
 */
static void test_killed_creator_leaves_nothing_to_attach(void)
{
    shmc t, other;
    make(&t, MIB);

    for (size_t i = 0; i < failpoint_count; i++) {
        const char *at = failpoints[i].name;
        if (strncmp(at, "init.", 5))
            continue;
        unfinished = map_segment(MIB);
        CHECK(dies_at(&t, at, 1, init_again));
        int ready = !strcmp(at, "init.ready");
        CHECK(shmc_attach(&other, unfinished, MIB, 0)
              == (ready ? SHMC_OK : SHMC_BAD_LAYOUT));
        memset(unfinished, 0, MIB);
        init_again(&t);
        attach(&other, unfinished, MIB);
        CHECK(put_number(&other, 1, 0) == SHMC_OK && stands(&other, 1));
        unmake(&other);
    }
    unmake(&t);
}

static void test_failed_lock_leaves_it_unready(void)
{
    shmc t, other;
    shmc_identity id = {.uid = 7};
    uint64_t seed[2] = {1, 2};
    make(&t, MIB);

    unfinished = map_segment(MIB);
    failpoint_arm("init.shard", FAILPOINT_ERR, 1, 0);
    CHECK(shmc_init(unfinished, &t.g, &id, seed) == SHMC_DISABLED);
    CHECK(shmc_attach(&other, unfinished, MIB, 0) == SHMC_BAD_LAYOUT);
}

static void attach_only(shmc *t)
{
    shmc own;

    attach(&own, t->base, t->g.size);
}

static void test_attacher_killed_changes_nothing(void)
{
    shmc t;
    make(&t, MIB);
    static char before[MIB];

    put_number(&t, 1, 0);
    memcpy(before, t.base, MIB);
    CHECK(dies_at(&t, "attach.checked", 2, attach_only));
    CHECK(!memcmp(before, t.base, MIB));
}

static const struct test tests[] = {
    TEST(test_hash_matches_reference_vectors),
    TEST(test_plan_keeps_its_bounds),
    TEST(test_attach_refuses_what_contradicts_itself),
    TEST(test_killed_creator_leaves_nothing_to_attach),
    TEST(test_failed_lock_leaves_it_unready),
    TEST(test_attacher_killed_changes_nothing),
};

MAIN(tests)
