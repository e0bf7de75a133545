/* test_pieces.c: what storing a value in pieces costs others, and itself. */
#include "harness.h"

#define KEY 1u
#define OTHERS 0x40000000u      /* keys that nobody asks for */

/* A segment whose log is full of records that are not asked for. */
static void make_full(shmc *t)
{
    make(t, 4 * MIB);
    for (uint32_t i = 0; !t->counters[SHMC_C_EVICTED]; i++)
        CHECK(put_number(t, OTHERS + i, SIZED | 300) == SHMC_OK);
}

/* Keep a key's record on its way round while all others go. Whether it stands
 * at the end.
 */
static int outlives(shmc *t, uint32_t key)
{
    for (uint32_t i = 0; i < 30000; i++) {
        CHECK(put_number(t, OTHERS + (i << 8), SIZED | 300) == SHMC_OK);
        if (i % 50 == 0 && get_number(t, key) != SHMC_OK)
            return 0;
    }
    return 1;
}

/* The number is taken after the pieces are stored. What was raised before is no
 * reason for them to go.
 */
static void test_pieces_of_a_store_that_raises_outlive_an_earlier_clear(void)
{
    shmc t;
    uint64_t stamp;
    uint32_t key = KEY;
    make_full(&t);

    shmc_raise(&t.header->clear_hard, shmc_number(&t));
    shmc_store s = store_of(&t, &key, SIZED | t.g.extent_bytes);
    s.stamp = 0;
    s.raise = 1;
    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_OK && stamp == shmc_clock(&t));
    CHECK(outlives(&t, KEY));
}

/* A clear that comes after them is. */
static void test_pieces_of_a_store_that_raises_go_with_a_later_clear(void)
{
    shmc t;
    uint64_t stamp;
    uint32_t key = KEY;
    make_full(&t);

    shmc_store s = store_of(&t, &key, SIZED | t.g.extent_bytes);
    s.raise = 1;
    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_OK && stands(&t, KEY));
    shmc_raise(&t.header->clear_hard, shmc_number(&t));
    CHECK(!stands(&t, KEY));
    for (uint32_t i = 0; i < 30000; i++)
        CHECK(put_number(&t, OTHERS + i, SIZED | 300) == SHMC_OK);
    CHECK(!check_books(&t).pieces);
}

/* Store many values of so many quarters of an extent beside records that are
 * asked for again and again.
 */
static void store_many(uint32_t quarters)
{
    enum { HOT = 4660, STORES = 30 };
    shmc t;
    make(&t, 8 * MIB);

    for (uint32_t i = 0; i < 3 * HOT; i++) {
        uint32_t key = OTHERS + i % HOT;
        if (get_number(&t, key) != SHMC_OK)
            CHECK(put_number(&t, key, SIZED | (200 + key % 300)) == SHMC_OK);
        get_number(&t, key);
    }
    for (uint32_t i = 0; i < STORES; i++) {
        uint32_t len = t.g.extent_bytes * quarters / 4;
        CHECK(put_number(&t, KEY + i, SIZED | len) == SHMC_OK);
        CHECK(get_number(&t, KEY + i) == SHMC_OK);
        for (uint32_t n = 0; n < 200; n++)
            get_number(&t, OTHERS + (n * 7919 + i) % HOT);
    }
    unmake(&t);
}

/* Those that were asked for go to main, until probation has little left. */
static void test_stored_pieces_all_stand_at_the_end_of_the_store(void)
{
    for (uint32_t quarters = 4; quarters <= 17; quarters++)
        store_many(quarters);
}

/* A store that is refused as things stand appends nothing, so that nothing is
 * put out for it.
 */
static void test_refused_store_of_many_pieces_puts_out_nothing(void)
{
    shmc t;
    uint64_t stamp;
    uint32_t key = KEY;
    make_full(&t);

    CHECK(put_number(&t, KEY, 1) == SHMC_OK);
    uint64_t evicted = t.counters[SHMC_C_EVICTED];
    shmc_store s = store_of(&t, &key, SIZED | (uint32_t)shmc_value_max(&t));
    s.newer_only = 1;
    s.birth = 0;
    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_OLDER);
    s.newer_only = 0;
    s.claim = 0;
    s.claim_word = 77;
    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_LOST);
    s.claim = SHMC_NO_CLAIM;
    shmc_raise_key(&t, shmc_hash(&t, &key, 4), shmc_number(&t), 0);
    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_RAISED);
    CHECK(t.counters[SHMC_C_EVICTED] == evicted && stands(&t, KEY));
    CHECK(t.counters[SHMC_C_REFUSED_OLDER] == 1);
    CHECK(t.counters[SHMC_C_REFUSED_LOST] == 1);
    CHECK(t.counters[SHMC_C_REFUSED_RAISED] == 1);
}

/* ---- a lock that is held */

static shmc *locked;

/* Somebody else takes the lock between two pieces, and keeps it. */
static void take_the_lock(const char *at)
{
    if (strcmp(at, "chain.piece"))
        return;
    on_step = NULL;
    CHECK(!pthread_mutex_trylock(&locked->shards[0].lock));
}

static int put_while_the_lock_is_taken(shmc *t, int wait)
{
    uint64_t stamp;
    uint32_t key = KEY;
    shmc_store s = store_of(t, &key, SIZED | t->g.extent_bytes);

    s.wait = wait;
    locked = t;
    on_step = take_the_lock;
    int rc = shmc_put(t, &s, 1, &stamp);
    if (!on_step)
        pthread_mutex_unlock(&t->shards[0].lock);
    on_step = NULL;
    return rc;
}

/* Who only tries must not wait at any piece. */
static void test_store_of_pieces_that_may_not_wait_does_not(void)
{
    shmc t;
    make(&t, 4 * MIB);

    CHECK(put_while_the_lock_is_taken(&t, 0) == SHMC_BUSY);
    CHECK(!t.counters[SHMC_C_LOCK_TIMEOUTS]);
    CHECK(put_while_the_lock_is_taken(&t, 1) == SHMC_BUSY);
    CHECK(t.counters[SHMC_C_LOCK_TIMEOUTS] == 1 && !stands(&t, KEY));
}

static const struct test tests[] = {
    TEST(test_pieces_of_a_store_that_raises_outlive_an_earlier_clear),
    TEST(test_pieces_of_a_store_that_raises_go_with_a_later_clear),
    TEST(test_stored_pieces_all_stand_at_the_end_of_the_store),
    TEST(test_refused_store_of_many_pieces_puts_out_nothing),
    TEST(test_store_of_pieces_that_may_not_wait_does_not),
};

MAIN(tests)
