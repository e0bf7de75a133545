/* test_check.c: a check of any bytes ends, stays inside and writes nothing. */
#include "harness.h"

#define LONG (SIZED | 20000u)
#ifdef __SANITIZE_THREAD__      /* alone in there, it has nothing to find */
#define ROUNDS 100
#else
#define ROUNDS 2000
#endif

static uint64_t random_state = 88172645463325252ull;

static uint64_t chance(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % below;
}

/* A full segment: records replaced, hit, dropped, some in pieces. */
static void fill(shmc *t)
{
    for (uint32_t i = 0; i < 6000; i++) {
        uint32_t key = (uint32_t)chance(3000);
        CHECK(put_number(t, key, i % 300 ? i : LONG) == SHMC_OK);
        get_number(t, (uint32_t)chance(3000));
        if (i % 40 == 0)
            drop_number(t, (uint32_t)chance(3000));
    }
    check_books(t);
}

/* Damage a byte, or some, of the header, of the shards' headers but not their
 * locks, of the index, the log, or anywhere.
 */
static void damage(shmc *t, uint8_t *base)
{
    size_t at, size = t->g.size;

    switch (chance(6)) {
    case 0:
        at = chance(64) ? SHMC_PAGE + chance(SHMC_PAGE) : chance(SHMC_PAGE);
        break;
    case 1:
    case 2:
        at = (size_t)((uint8_t *)t->shards - base)
            + chance(t->g.shards) * sizeof(shmc_shard) + 64
            + chance(sizeof(shmc_shard) - 64);
        break;
    case 3:
        at = (size_t)((uint8_t *)t->index - base) + chance(t->g.buckets * 64);
        break;
    case 4:
        at = (size_t)(t->extents - base) + chance(t->g.extent_bytes * 64ull);
        break;
    default:
        at = chance(size);
    }
    if (chance(8))
        base[at] ^= (uint8_t)(1u << chance(8));
    else
        for (size_t i = at; i < size && i < at + 16; i++)
            base[i] = (uint8_t)chance(256);
}

/* All that reads alone, on a mapping that cannot be written, with an unreadable
 * page behind it. Faults found.
 */
static uint64_t look(uint8_t *base, size_t size, uint64_t *starts)
{
    uint64_t faults = 0;
    shmc t;
    shmc_report r;
    shmc_stripes stripes;
    shmc_listed listed;
    shmc_outbox_report outbox;
    shmc_entry e;
    uint64_t position = 0;
    uint8_t name[SHMC_NAME_ROOM];

#ifndef __SANITIZE_THREAD__      /* for it a read's last look is a write */
    CHECK(!mprotect(base, size, PROT_READ));
#endif
    if (shmc_attach(&t, base, size, 1) == SHMC_OK) {
        for (uint32_t s = 0; s < t.g.shards; s++) {
            shmc_check(&t, s, starts, &r);
            CHECK(r.told <= SHMC_FAULTS);
            for (int k = 0; k < SHMC_F_KINDS; k++)
                faults += r.found[k];
            for (uint32_t i = 0; i < t.g.buckets * SHMC_WAYS; i += 7)
                shmc_list(&t, s, i, 1, &listed);
        }
        shmc_check_stripes(&t, &stripes);
        shmc_check_outbox(&t, &outbox);
        for (int k = 0; k < SHMC_O_KINDS; k++)
            faults += outbox.found[k];
        while (shmc_outbox_next(&t, &position, &e, name) == SHMC_OK)
            CHECK(e.len <= SHMC_NAME_MAX);
    }
    CHECK(!mprotect(base, size, PROT_READ | PROT_WRITE));
    return faults;
}

static void test_check_of_any_bytes_ends_and_stays_inside(void)
{
    shmc t;
    make(&t, MIB);
    fill(&t);
    size_t size = t.g.size;
    uint8_t *base = t.base, *sound = malloc(size);
    /* a damaged geometry asks for more than the sound one, within the file */
    uint64_t *starts = malloc(size);
    uint64_t faults = 0;

    CHECK(sound && starts);
    memcpy(sound, base, size);
    CHECK(!look(base, size, starts));
    for (int i = 0; i < ROUNDS; i++) {
        if (i % 50 == 0)
            memcpy(base, sound, size);
        damage(&t, base);
        faults += look(base, size, starts);
    }
    CHECK(faults > ROUNDS);
    free(sound);
    free(starts);
    unmake(&t);
}

static const struct test tests[] = {
    TEST(test_check_of_any_bytes_ends_and_stays_inside),
};

MAIN(tests)
