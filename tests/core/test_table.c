/* test_table.c: records in the index: sizes, frequency, full buckets, readers
 * that sleep at the wrong moment.
 */
#include "harness.h"

static int put_bytes(shmc *t, const char *key, uint32_t key_len, uint32_t len,
                     uint32_t ntags)
{
    static char value[MIB];
    static uint32_t tags[SHMC_TAGS_MAX];
    uint64_t stamp;
    shmc_store s = {.key = key, .key_len = key_len, .value = value,
        .value_len = len, .ntags = (uint8_t)ntags, .tags = tags, .birth = 1,
        .fresh_until = 10, .dead_at = 20, .claim = SHMC_NO_CLAIM, .wait = 1};

    return shmc_put(t, &s, 1, &stamp);
}

static void test_sizes_at_their_limits_are_stored_whole(void)
{
    static char key[SHMC_KEY_MAX], value[MIB];
    shmc t;
    make(&t, MIB);
    uint32_t most = (uint32_t)shmc_value_max(&t);
    uint32_t sizes[] = {0, 1, shmc_whole_bytes(&t), shmc_whole_bytes(&t) + 1,
        most - 1, most};

    for (uint32_t len = 1; len <= SHMC_KEY_MAX; len += 341)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            shmc_found f;
            uint64_t hash = shmc_hash(&t, key, len);
            CHECK(put_bytes(&t, key, len, sizes[i], SHMC_TAGS_MAX) == SHMC_OK);
            CHECK(shmc_find(&t, key, len, hash, 1, &f) == SHMC_OK);
            CHECK(f.length == sizes[i] && f.head.ntags == SHMC_TAGS_MAX);
            CHECK(shmc_copy(&t, &f, value) == SHMC_OK);
        }
    check_books(&t);
}

static int steps;

static void count_step(const char *at)
{
    (void)at;
    steps++;
}

/* In time that does not grow with the value: no step of the core is met. */
static void test_value_above_the_limit_is_refused_at_once(void)
{
    static char before[MIB];
    shmc t;
    make(&t, MIB);

    put_number(&t, 1, 0);
    memcpy(before, t.base, MIB);
    steps = 0;
    on_step = count_step;
    CHECK(put_bytes(&t, "k", 1, (uint32_t)shmc_value_max(&t) + 1, 0)
          == SHMC_TOO_LARGE);
    CHECK(put_bytes(&t, "k", 1, UINT32_MAX, 0) == SHMC_TOO_LARGE);
    CHECK(put_bytes(&t, "k", 1, 1, SHMC_TAGS_MAX + 1) == SHMC_TOO_LARGE);
    CHECK(put_bytes(&t, "k", 0, 1, 0) == SHMC_TOO_LARGE);
    CHECK(put_bytes(&t, "k", SHMC_KEY_MAX + 1, 1, 0) == SHMC_TOO_LARGE);
    CHECK(steps == 0 && t.counters[SHMC_C_TOO_LARGE] == 5);
    CHECK(!memcmp(before, t.base, MIB));
}

static uint64_t slot_of_number(shmc *t, uint32_t key)
{
    shmc_found f;

    CHECK(find_number(t, key, &f) == SHMC_OK);
    return atomic_load(f.slot);
}

static void test_frequency_saturates_and_survives_replacement(void)
{
    shmc t;
    make(&t, MIB);

    put_number(&t, 5, 0);
    for (uint32_t i = 1; i < 6; i++) {
        get_number(&t, 5);
        CHECK(shmc_word_freq(slot_of_number(&t, 5)) == (i < 3 ? i : 3));
    }
    put_number(&t, 5, 1);
    CHECK(shmc_word_freq(slot_of_number(&t, 5)) == 3);
}

/* With two buckets every key may stand in either: sixteen slots in all. */
static void test_full_buckets_lose_the_least_used_then_the_oldest(void)
{
    shmc t;
    shmc_geometry g;
    CHECK(shmc_plan(MIB, 0, 0, &g) == SHMC_OK);
    g.buckets = 2;
    make_with(&t, &g);

    for (uint32_t k = 0; k < 16; k++) {
        CHECK(put_number(&t, k, 0) == SHMC_OK);
        if (k == 4)             /* what follows stands in a later extent */
            t.shards[0].open[SHMC_Q_PROBATION] = SHMC_NO_EXTENT;
        if (k != 2 && k != 9)
            get_number(&t, k);
    }
    CHECK(put_number(&t, 100, 0) == SHMC_OK);
    CHECK(!stands(&t, 2) && stands(&t, 9));
    CHECK(t.counters[SHMC_C_NO_SLOT] == 1);
    for (uint32_t k = 0; k < 16; k++)
        CHECK(k == 2 || stands(&t, k));
    CHECK(stands(&t, 100));
    check_books(&t);
}

/* ---- readers */

static void test_reader_that_slept_through_a_reuse_learns_it(void)
{
    shmc t;
    shmc_found f;
    make(&t, MIB);

    put_number(&t, 0, 0);
    CHECK(find_number(&t, 0, &f) == SHMC_OK);
    for (uint32_t k = 1; stands(&t, 0); k++)
        put_number(&t, k, 0);
    while (shmc_load(f.generation) == f.generation_seen)
        put_number(&t, 1 << 20, 0);
    CHECK(shmc_copy(&t, &f, room_for_value(0)) == SHMC_CHANGED);
}

static shmc *shared;
static const char *hooked;      /* the step that a hook waits for */

/* Once, at the hooked step. */
static int is_time(const char *at)
{
    if (strcmp(at, hooked))
        return 0;
    on_step = NULL;
    return 1;
}

/* Stand in for 65,536 reuses between a reader's load of the slot and its load
 * of the generation: the low bits are the same again, the slot means nothing.
 */
static void wrap_generation(const char *at)
{
    if (!is_time(at))
        return;
    for (size_t i = 0; i < (size_t)shared->g.buckets * SHMC_WAYS; i++)
        atomic_store(&shared->index[i], 0);
    for (uint32_t e = 0; e < SHMC_EXTENTS; e++)
        atomic_fetch_add(&shared->shards[0].generations[e], 1 << 16);
}

static void test_reader_looks_at_the_slot_again_after_the_generation(void)
{
    shmc t;
    make(&t, MIB);

    put_number(&t, 1, 0);
    shared = &t;
    hooked = "look.slot";
    on_step = wrap_generation;
    CHECK(!stands(&t, 1));
    CHECK(!on_step);
}

/* Between two steps of a reader the record is moved on, and the extent where it
 * stood is filled with others.
 */
static void move_record(const char *at)
{
    shmc t;
    shmc_found f;

    if (!is_time(at))
        return;
    attach(&t, shared->base, shared->g.size);
    CHECK(find_number(&t, 1, &f) == SHMC_OK);
    shmc_touch(&t, &f);
    for (uint32_t k = 2; shmc_load(f.generation) == f.generation_seen; k++)
        CHECK(put_number(&t, k, 0) == SHMC_OK);
    uint32_t reused = shmc_word_extent(f.word);
    for (uint32_t k = 2; t.shards[0].extents[reused].queue == SHMC_Q_FREE; k++)
        CHECK(put_number(&t, k, 1) == SHMC_OK);
    CHECK(!shmc_word_same(atomic_load(f.slot), f.word));
}

static void test_record_that_moved_is_no_miss(void)
{
    static const char *const points[] = {
        "look.slot", "look.head", "copy.value"
    };

    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        shmc t;
        make(&t, MIB);
        put_number(&t, 1, 0);
        shared = &t;
        hooked = points[i];
        on_step = move_record;
        CHECK(stands(&t, 1));
        CHECK(!on_step && t.counters[SHMC_C_RETRIES] == 1);
        unmake(&t);
    }
}

/* Between two steps of a reader the key is given another value. */
static void replace_record(const char *at)
{
    shmc t;

    if (!is_time(at))
        return;
    attach(&t, shared->base, shared->g.size);
    CHECK(put_number(&t, 1, 1) == SHMC_OK);
}

static void test_record_that_is_replaced_is_no_miss(void)
{
    static const char *const points[] = {
        "look.slot", "look.head", "copy.value"
    };

    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        shmc t;
        make(&t, MIB);
        put_number(&t, 1, 0);
        shared = &t;
        hooked = points[i];
        on_step = replace_record;
        CHECK(stands(&t, 1) && !on_step);
        unmake(&t);
    }
}

static const struct test tests[] = {
    TEST(test_sizes_at_their_limits_are_stored_whole),
    TEST(test_value_above_the_limit_is_refused_at_once),
    TEST(test_frequency_saturates_and_survives_replacement),
    TEST(test_full_buckets_lose_the_least_used_then_the_oldest),
    TEST(test_reader_that_slept_through_a_reuse_learns_it),
    TEST(test_reader_looks_at_the_slot_again_after_the_generation),
    TEST(test_record_that_moved_is_no_miss),
    TEST(test_record_that_is_replaced_is_no_miss),
};

MAIN(tests)
