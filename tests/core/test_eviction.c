/* test_eviction.c: who goes when room is needed: S3-FIFO over extents. */
#include "harness.h"

#define NEW 1000000u            /* keys from here on are put once, never read */
#define ENOUGH 20000u           /* stores after which anything has been met */

static uint32_t next_new;

/* Store keys that nobody will ask for until `done` says so. How many. */
static uint32_t churn_until(shmc *t, int (*done)(shmc *t))
{
    uint32_t n = 0;

    for (; !done(t); n++) {
        CHECK(n < ENOUGH);
        CHECK(put_number(t, NEW + next_new++, 0) == SHMC_OK);
    }
    return n;
}

static void churn(shmc *t, uint32_t n)
{
    while (n--)
        CHECK(put_number(t, NEW + next_new++, 0) == SHMC_OK);
}

static uint32_t freq_of(shmc *t, uint32_t key)
{
    shmc_found f;

    CHECK(find_number(t, key, &f) == SHMC_OK);
    return shmc_word_freq(atomic_load(f.slot));
}

/* ---- who goes and who stays */

static int first_is_gone(shmc *t)
{
    return !stands(t, 1);
}

static void test_unread_record_goes_and_comes_back_to_main(void)
{
    shmc t;
    make_small(&t);

    CHECK(put_number(&t, 1, 0) == SHMC_OK);
    CHECK(queue_of(&t, 1) == SHMC_Q_PROBATION);
    CHECK(churn_until(&t, first_is_gone) > 100);
    CHECK(put_number(&t, 1, 0) == SHMC_OK);
    CHECK(queue_of(&t, 1) == SHMC_Q_MAIN);      /* it left a ghost */
    CHECK(put_number(&t, 2, 0) == SHMC_OK);
    CHECK(queue_of(&t, 2) == SHMC_Q_PROBATION);
    check_books(&t);
}

static int first_is_in_main(shmc *t)
{
    return stands(t, 1) && queue_of(t, 1) == SHMC_Q_MAIN;
}

static void test_record_that_was_hit_moves_to_main(void)
{
    shmc t;
    make_small(&t);

    CHECK(put_number(&t, 1, 0) == SHMC_OK);
    CHECK(get_number(&t, 1) == SHMC_OK && queue_of(&t, 1) == SHMC_Q_PROBATION);
    CHECK(churn_until(&t, first_is_in_main) > 100);
    CHECK(freq_of(&t, 1) == 0);                 /* it must earn more there */
    churn(&t, 2000);                            /* no flood puts it out */
    CHECK(stands(&t, 1));
    check_books(&t);
}

/* Store records that are hit once, so that all of them come to main. */
static void press_main(shmc *t)
{
    uint32_t key = NEW + next_new++;

    CHECK(put_number(t, key, 0) == SHMC_OK && get_number(t, key) == SHMC_OK);
}

static void test_main_goes_round_once_for_each_hit(void)
{
    shmc t;
    uint32_t last = 3, n = 0, unread_went = 0;
    make_small(&t);

    for (uint32_t k = 1; k < 3; k++)
        CHECK(put_number(&t, k, 0) == SHMC_OK && get_number(&t, k) == SHMC_OK);
    churn_until(&t, first_is_in_main);
    CHECK(queue_of(&t, 2) == SHMC_Q_MAIN);
    for (int i = 0; i < 3; i++)
        CHECK(get_number(&t, 1) == SHMC_OK);
    CHECK(freq_of(&t, 1) == 3);
    for (; stands(&t, 1); n++) {
        uint32_t freq = freq_of(&t, 1);
        CHECK(n < ENOUGH && queue_of(&t, 1) == SHMC_Q_MAIN);
        CHECK(freq == last || freq == last - 1);        /* one lower a round */
        last = freq;
        if (!unread_went && !stands(&t, 2))
            unread_went = n;
        press_main(&t);
    }
    CHECK(last == 0 && unread_went && unread_went < n / 2);
    check_books(&t);
}

/* What has expired or was invalidated goes when it is met, however often it was
 * hit, and leaves no ghost.
 */
static void test_dead_record_goes_however_often_it_was_hit(void)
{
    shmc t;
    uint64_t stamp;
    uint32_t tag = 9, expired = 1, invalidated = 2;
    make_small(&t);

    shmc_store s = store_of(&t, &expired, 0);
    s.fresh_until = s.dead_at = 2;
    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_OK);
    s = store_of(&t, &invalidated, 0);
    s.tags = &tag;
    s.ntags = 1;
    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_OK);
    for (int i = 0; i < 3; i++)
        CHECK(!get_number(&t, expired) && !get_number(&t, invalidated));
    shmc_raise(shmc_tag_stripe(&t, tag, 0), shmc_number(&t));
    for (uint32_t n = 0; !t.counters[SHMC_C_EXPIRED]
         || !t.counters[SHMC_C_INVALIDATED]; n++) {
        uint32_t key = NEW + n;
        CHECK(n < ENOUGH);
        s = store_of(&t, &key, 0);
        CHECK(shmc_put(&t, &s, 5, &stamp) == SHMC_OK);
    }
    CHECK(t.counters[SHMC_C_EXPIRED] == 1);
    CHECK(t.counters[SHMC_C_INVALIDATED] == 1);
    CHECK(put_number(&t, expired, 0) == SHMC_OK);
    CHECK(queue_of(&t, expired) == SHMC_Q_PROBATION);
}

/* ---- rewriting */

/* A few keys are rewritten for ever: their dead bytes make the room, and what
 * stands, though nobody reads it, stays.
 */
static void test_rewriting_puts_out_nothing_that_stands(void)
{
    enum { STAND = 250, REWRITTEN = 10 };       /* about half of the segment */
    shmc t;
    make_small(&t);

    for (uint32_t k = 0; k < STAND; k++)
        CHECK(put_number(&t, k, 0) == SHMC_OK);
    for (uint32_t i = 0; i < ENOUGH; i++)
        CHECK(put_number(&t, i * 7 % REWRITTEN, i) == SHMC_OK);
    for (uint32_t k = 0; k < STAND; k++)
        CHECK(stands(&t, k));
    CHECK(!t.counters[SHMC_C_EVICTED]);
    CHECK(check_books(&t).records == STAND);
}

/* The same of keys that were dropped and stored again. */
static void test_dropping_puts_out_nothing_that_stands(void)
{
    enum { STAND = 250 };
    shmc t;
    make_small(&t);

    for (uint32_t k = 0; k < STAND; k++)
        CHECK(put_number(&t, k, 0) == SHMC_OK);
    for (uint32_t i = 0; i < ENOUGH; i++) {
        CHECK(put_number(&t, NEW, i) == SHMC_OK);
        CHECK(drop_number(&t, NEW) == SHMC_OK);
    }
    for (uint32_t k = 0; k < STAND; k++)
        CHECK(stands(&t, k));
    CHECK(!t.counters[SHMC_C_EVICTED]);
}

/* An extent of main that was left half empty is emptied first, but what stands
 * there is kept, unread as it is: main has no more than its share.
 */
static void test_half_empty_extent_of_main_loses_nothing_that_stands(void)
{
    enum { STAND = 200 };
    shmc t;
    make_small(&t);

    for (uint32_t k = 1; k <= STAND; k++) {
        CHECK(put_number(&t, k, 0) == SHMC_OK && get_number(&t, k) == SHMC_OK);
        churn(&t, 2);
    }
    for (uint32_t k = 1; k <= STAND; k++)
        for (uint32_t n = 0; queue_of(&t, k) != SHMC_Q_MAIN; n++) {
            CHECK(n < ENOUGH);
            churn(&t, 1);
        }
    for (uint32_t k = 2; k <= STAND; k += 2)
        CHECK(drop_number(&t, k) == SHMC_OK);
    churn(&t, 1000);
    for (uint32_t k = 1; k <= STAND; k += 2)
        CHECK(stands(&t, k) && queue_of(&t, k) == SHMC_Q_MAIN);
}

/* ---- pace, accounts */

static const char *counted;
static uint32_t walked;

static void count_walked(const char *at)
{
    walked += !strcmp(at, counted);
}

/* Bring new keys back, from `first` on, until one opens main, as a ghost of
 * another key's print does in its time: that takes an extent by surprise.
 */
static void open_main(shmc *t, uint32_t first)
{
    for (uint32_t n = first; t->shards[0].open[SHMC_Q_MAIN] >= SHMC_NO_EXTENT;
         n++)
        CHECK(n < next_new && put_number(t, NEW + n, 0) == SHMC_OK);
    churn(t, 1000);
}

/* A store walks its share of the extent that is emptied, never the whole. */
static void test_no_store_empties_an_extent_at_once(void)
{
    enum { STORES = 3000 };
    shmc t;
    uint32_t most = 0, all = 0, records, first = next_new;
    make(&t, 4 * MIB);

    records = t.g.extent_bytes / 500;   /* that an extent holds, about */
    CHECK(records > 50);
    while (!t.counters[SHMC_C_EVICTED])
        churn(&t, 1);
    churn(&t, 1000);
    open_main(&t, first);
    counted = "empty.cursor";
    on_step = count_walked;
    for (uint32_t i = 0; i < STORES; i++) {
        walked = 0;
        churn(&t, 1);
        most = walked > most ? walked : most;
        all += walked;
    }
    on_step = NULL;
    CHECK(all > STORES * 8 / 10);               /* as much as is stored */
    CHECK(most < records / 3);
}

/* Nor where it must keep what it walks. */
static void test_no_store_moves_an_extent_at_once(void)
{
    enum { STORES = 3000 };
    shmc t;
    uint32_t most = 0, all = 0, records;
    make(&t, 4 * MIB);

    records = t.g.extent_bytes / 500;
    for (uint32_t i = 0; i < ENOUGH; i++)
        press_main(&t);
    counted = "move.slot";
    on_step = count_walked;
    for (uint32_t i = 0; i < STORES; i++) {
        walked = 0;
        press_main(&t);
        most = walked > most ? walked : most;
        all += walked;
    }
    on_step = NULL;
    CHECK(all > STORES / 2);
    CHECK(most < records / 2);
}

static void test_full_segment_accounts_for_every_record(void)
{
    shmc t;
    shmc_usage u;
    make(&t, MIB);

    churn(&t, ENOUGH);
    shmc_report r = check_books(&t);
    shmc_measure(&t, SHMC_SHARDS_MAX, &u);
    CHECK(!r.drifted && u.records == r.records && u.live_bytes == r.live_bytes);
    CHECK(u.records + t.counters[SHMC_C_EVICTED] + t.counters[SHMC_C_NO_SLOT]
          == ENOUGH);
    CHECK(u.live_bytes > u.capacity_bytes * 85 / 100);
    CHECK(t.counters[SHMC_C_NO_SLOT] < ENOUGH / 100);
    CHECK(!t.counters[SHMC_C_SHARDS_WIPED]);
}

static void put_and_die(shmc *t)
{
    churn(t, 500);
}

/* What a killed writer did not come to book is right again once its extents
 * have been used anew.
 */
static void test_drift_of_a_killed_writer_heals(void)
{
    static const char *const points[] = {
        "store.slot", "publish.slot", "keep.bytes", "book.bytes", "move.slot",
        "move.gone", "empty.slot"
    };
    shmc t;
    make_small(&t);

    for (uint32_t i = 0; i < 5000; i++)
        i % 3 ? churn(&t, 1) : press_main(&t);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        dies_at(&t, points[i], 1 + (uint32_t)i, put_and_die);
        next_new += 500;        /* the child had those */
        CHECK(put_number(&t, 1, 0) == SHMC_OK);
    }
    CHECK(check_books(&t).drifted);
    for (uint32_t i = 0; i < ENOUGH; i++)
        i % 3 ? churn(&t, 1) : press_main(&t);
    CHECK(!check_books(&t).drifted);
    CHECK(!t.counters[SHMC_C_SHARDS_WIPED]);
}

/* ---- the ghost list */

static void test_ghost_is_taken_once(void)
{
    shmc t;
    make(&t, MIB);

    CHECK(!shmc_ghost_take(&t, 0, 12345));
    shmc_ghost_add(&t, 0, 12345);
    shmc_ghost_add(&t, 0, 12345);
    CHECK(shmc_ghost_take(&t, 0, 12345));
    CHECK(!shmc_ghost_take(&t, 0, 12345));
}

static void test_ghost_is_forgotten_after_its_window(void)
{
    shmc t;
    make(&t, MIB);
    uint64_t capacity = (uint64_t)SHMC_EXTENTS * t.g.extent_bytes;

    for (uint64_t start = 0; start < 1000 * capacity; start += 7 * capacity) {
        t.shards[0].evicted_bytes = start;
        shmc_ghost_add(&t, 0, 1);
        shmc_ghost_add(&t, 0, 2);
        t.shards[0].evicted_bytes = start + capacity;
        CHECK(shmc_ghost_take(&t, 0, 1));
        t.shards[0].evicted_bytes = start + 2 * capacity;
        CHECK(!shmc_ghost_take(&t, 0, 2));
    }
}

static void test_full_bucket_of_ghosts_loses_the_oldest(void)
{
    shmc t;
    shmc_geometry g;
    CHECK(shmc_plan(MIB, 0, 0, &g) == SHMC_OK);
    g.ghost_buckets = 1;
    make_with(&t, &g);
    uint64_t step = (uint64_t)SHMC_EXTENTS * g.extent_bytes / 100;

    for (uint64_t h = 1; h <= 20; h++) {
        t.shards[0].evicted_bytes += step;
        shmc_ghost_add(&t, 0, h);
    }
    for (uint64_t h = 1; h <= 20; h++)
        CHECK(shmc_ghost_take(&t, 0, h) == (h > 4));
}

static const struct test tests[] = {
    TEST(test_unread_record_goes_and_comes_back_to_main),
    TEST(test_record_that_was_hit_moves_to_main),
    TEST(test_main_goes_round_once_for_each_hit),
    TEST(test_dead_record_goes_however_often_it_was_hit),
    TEST(test_rewriting_puts_out_nothing_that_stands),
    TEST(test_dropping_puts_out_nothing_that_stands),
    TEST(test_half_empty_extent_of_main_loses_nothing_that_stands),
    TEST(test_no_store_empties_an_extent_at_once),
    TEST(test_no_store_moves_an_extent_at_once),
    TEST(test_full_segment_accounts_for_every_record),
    TEST(test_drift_of_a_killed_writer_heals),
    TEST(test_ghost_is_taken_once),
    TEST(test_ghost_is_forgotten_after_its_window),
    TEST(test_full_bucket_of_ghosts_loses_the_oldest),
};

MAIN(tests)
