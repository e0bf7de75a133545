/* test_pace.c: how much one store walks where many records are dropped. */
#include "harness.h"

static uint32_t walked;

static void count_walked(const char *at)
{
    walked += !strcmp(at, "empty.cursor");
}

static uint32_t below(uint32_t n)
{
    static uint64_t state = 1;

    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33) % n;
}

/* Extents that are nearly all live yield little, and what is kept of them opens
 * others meanwhile: the stores must know how many are left.
 */
static void test_no_store_pays_for_extents_that_a_walk_opened(void)
{
    enum { WINDOW = 30000, STORES = 5 * WINDOW };
    shmc t;
    shmc_geometry g;
    uint32_t most = 0;
    CHECK(shmc_plan(4 * MIB, 8, 1, &g) == SHMC_OK);
    make_with(&t, &g);

    uint32_t records = t.g.extent_bytes / 72;   /* that an extent holds */
    on_step = count_walked;
    for (uint32_t i = 0; i < STORES; i++) {
        walked = 0;
        CHECK(put_number(&t, i, SIZED | 8) == SHMC_OK);
        if (i > 2 * WINDOW)
            most = walked > most ? walked : most;
        if (i > WINDOW && below(100) < 30)
            get_number(&t, i - below(WINDOW));
        if (i > WINDOW && below(100) < 30)
            drop_number(&t, i - below(WINDOW));
    }
    CHECK(most && most < records);
}

static const struct test tests[] = {
    TEST(test_no_store_pays_for_extents_that_a_walk_opened),
};

MAIN(tests)
