/* test_lock.c: a writer that is stopped with a shard's lock: the others wait
 * 2 ms for it once, then only try; readers and other shards do not notice.
 */
#include "scene.h"

#define WAIT_NS 2000000ll
#define TRY_NS 100000000ll
#define AT_ONCE_NS 1000000ll    /* what a try may take, of most tries */

static void put_one(shmc *t)
{
    put_number(t, 1, 9);
}

/* A child that is stopped at the nth pass of a point, doing `work`. */
static pid_t stop_at(shmc *t, const char *point, uint32_t nth,
                     void (*work)(shmc *t))
{
    pid_t child;

    failpoint_disarm();
    failpoint_arm(point, FAILPOINT_STOP, nth, 0);
    CHECK(WIFSTOPPED(run_child(t, 1, work, &child)));
    failpoint_disarm();
    return child;
}

static void go_on(pid_t child)
{
    int status;

    CHECK(!kill(child, SIGCONT));
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void end(pid_t child)
{
    CHECK(!kill(child, SIGKILL));
    CHECK(waitpid(child, NULL, 0) == child);
}

/* How long a call took that found the shard's lock taken. */
static int64_t busy_put(shmc *t, uint32_t key)
{
    int64_t start = clock_ns();

    CHECK(put_number(t, key, 9) == SHMC_BUSY);
    return clock_ns() - start;
}

static int by_size(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static int64_t median(int64_t *all, size_t n)
{
    qsort(all, n, sizeof *all, by_size);
    return all[n / 2];
}

static void test_stopped_holder_costs_two_milliseconds_once(void)
{
    enum { N = 21 };
    shmc t, other;
    make(&t, MIB);
    int64_t waited[N], tried[N];

    CHECK(put_number(&t, 1, 0) == SHMC_OK);
    pid_t child = stop_at(&t, "put.locked", 1, put_one);
    for (int i = 0; i < N; i++) {       /* each as a process of its own would */
        attach(&other, t.base, t.g.size);
        waited[i] = busy_put(&other, 2);
        CHECK(waited[i] >= WAIT_NS);
        tried[i] = busy_put(&other, 2);
        CHECK(other.counters[SHMC_C_LOCK_TIMEOUTS] == 1);
    }
    CHECK(median(waited, N) < 2 * WAIT_NS);
    CHECK(median(tried, N) < AT_ONCE_NS);
    go_on(child);
    CHECK(put_number(&t, 2, 0) == SHMC_OK);
    CHECK(!t.counters[SHMC_C_LOCKS_RECOVERED]);
    check_books(&t);
}

static void test_it_waits_again_after_a_tenth_of_a_second(void)
{
    shmc t;
    make(&t, MIB);
    pid_t child = stop_at(&t, "put.locked", 1, put_one);
    int64_t start = clock_ns();

    do
        busy_put(&t, 2);
    while (t.counters[SHMC_C_LOCK_TIMEOUTS] < 2);
    CHECK(clock_ns() - start >= TRY_NS + 2 * WAIT_NS);
    CHECK(clock_ns() - start < 10 * TRY_NS);
    end(child);
}

static void test_store_that_need_not_wait_only_tries(void)
{
    enum { N = 21 };
    uint32_t key = 2;
    uint64_t stamp;
    shmc t;
    make(&t, MIB);
    int64_t took[N];
    pid_t child = stop_at(&t, "put.locked", 1, put_one);
    shmc_store s = store_of(&t, &key, 0);

    s.wait = 0;
    for (int i = 0; i < N; i++) {
        int64_t start = clock_ns();
        CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_BUSY);
        CHECK(shmc_drop(&t, &key, 4, 5, 0, 0) == SHMC_BUSY);
        took[i] = clock_ns() - start;
    }
    CHECK(median(took, N) < AT_ONCE_NS);
    CHECK(!t.counters[SHMC_C_LOCK_TIMEOUTS]);
    CHECK(!t.header->floor_top);        /* nothing was raised either */
    end(child);
}

/* A delete is not skipped: its floor hides the record from all readers. */
static void test_drop_that_cannot_have_the_lock_hides_the_record(void)
{
    shmc t, other;
    make(&t, MIB);
    attach(&other, t.base, MIB);
    uint32_t key = 2;

    CHECK(put_number(&t, key, 0) == SHMC_OK);
    pid_t child = stop_at(&t, "put.locked", 1, put_one);
    uint64_t number = shmc_number(&t);
    CHECK(shmc_drop(&t, &key, 4, number, 0, 1) == SHMC_BUSY);
    CHECK(!stands(&t, key) && !stands(&other, key));
    end(child);
    CHECK(put_number(&t, key, 1) == SHMC_OK && stands(&other, key));
    CHECK(t.counters[SHMC_C_LOCKS_RECOVERED] == 1);
}

/* ---- at every point under the lock */

static int64_t waits[128];
static size_t stops;

/* What the call under way leaves as it was stands, before and after. */
static void check_readers(struct stage *g)
{
    static uint32_t now[SCENE_KEYS];
    uint32_t i = *g->at;

    note_what_stands(&g->t, now);
    for (uint32_t k = 0; k < SCENE_KEYS; k++)
        CHECK(k == g->calls[i].key || now[k] == g->after[i][k]
              || now[k] == g->after[i + 1][k]);
}

static void stop_at_each_point(const struct scene *scene)
{
    static struct stage g;
    shmc other;

    set_stage(&g, scene);
    for (size_t p = 0; p < failpoint_count; p++) {
        if (failpoints[p].place != IN_SHARD || !g.passes[p])
            continue;
        rewind_stage(&g);
        *g.at = 0;
        pid_t child = stop_at(&g.t, failpoints[p].name,
                              (g.passes[p] + 1) / 2, act);
        attach(&other, g.t.base, g.t.g.size);
        waits[stops++] = busy_put(&other, 7);
        check_readers(&g);
        busy_put(&other, 7);
        CHECK(other.counters[SHMC_C_LOCK_TIMEOUTS] == 1);
        go_on(child);
        CHECK(put_number(&other, 7, 9) == SHMC_OK);
        check_books(&other);
    }
    strike_stage(&g);
}

static void test_writer_stopped_anywhere_delays_no_reader(void)
{
    stop_at_each_point(&with_room);
    stop_at_each_point(&when_full);
    CHECK(stops > 50);
    CHECK(median(waits, stops) < 2 * WAIT_NS);
}

static void test_writer_stopped_delays_its_own_shard_alone(void)
{
    uint32_t busy = 0;
    shmc t;
    shmc_place own, at;
    shmc_geometry g;
    CHECK(shmc_plan(2 * MIB, 0, 4, &g) == SHMC_OK);
    make_with(&t, &g);
    uint32_t one = 1;

    shmc_place_of(&t, shmc_hash(&t, &one, 4), &own);
    pid_t child = stop_at(&t, "store.bytes", 1, put_one);
    for (uint32_t k = 0; k < 200; k++) {
        shmc_place_of(&t, shmc_hash(&t, &k, 4), &at);
        int rc = put_number(&t, k, 0);
        CHECK(rc == (at.shard == own.shard ? SHMC_BUSY : SHMC_OK));
        busy += rc == SHMC_BUSY;
    }
    CHECK(busy > 20 && t.counters[SHMC_C_LOCK_TIMEOUTS] == 1);
    end(child);
}

/* ---- readers */

enum { READ = 50, STOPPED_AT = 25 };

static _Atomic uint32_t *was_read;      /* by key, shared with the child */

static void read_some(shmc *t)
{
    for (uint32_t k = 0; k < READ; k++)         /* the values are checked too */
        was_read[k] = get_number(t, k) == SHMC_OK;
}

/* A stopped reader holds nothing; it goes on to see what stands now. */
static void test_reader_stopped_anywhere_sees_what_stands_now(void)
{
    static const char *const points[] = {
        "look.slot", "look.head", "copy.value"
    };
    was_read = map_segment(SHMC_PAGE);

    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        shmc t;
        uint32_t seen = 0;
        make_small(&t);
        for (uint32_t k = 0; k < READ; k++)
            CHECK(put_number(&t, k, 0) == SHMC_OK);
        pid_t child = stop_at(&t, points[i], STOPPED_AT, read_some);
        for (uint32_t n = 0; n < 5000; n++)     /* every extent, many times */
            CHECK(put_number(&t, 1000 + n % 900, n) == SHMC_OK);
        for (uint32_t k = 0; k < READ; k++)
            CHECK(put_number(&t, k, 1) == SHMC_OK);
        go_on(child);
        for (uint32_t k = STOPPED_AT; k < READ; k++) {
            CHECK(was_read[k] == (uint32_t)stands(&t, k));
            seen += was_read[k];
        }
        CHECK(seen > 10);
        unmake(&t);
    }
    unmap_segment((void *)was_read, SHMC_PAGE);
}

static const struct test tests[] = {
    TEST(test_stopped_holder_costs_two_milliseconds_once),
    TEST(test_it_waits_again_after_a_tenth_of_a_second),
    TEST(test_store_that_need_not_wait_only_tries),
    TEST(test_drop_that_cannot_have_the_lock_hides_the_record),
    TEST(test_writer_stopped_anywhere_delays_no_reader),
    TEST(test_writer_stopped_delays_its_own_shard_alone),
    TEST(test_reader_stopped_anywhere_sees_what_stands_now),
};

MAIN(tests)
