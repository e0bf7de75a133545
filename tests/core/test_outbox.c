/* test_outbox.c: the ring of what Redis has yet to be told: in order and whole,
 * whoever is killed or stopped at whatever step of it.
 */
#include "entries.h"

#define WAIT_NS 2000000ll
#define AT_ONCE_NS 1000000ll
#define SERVICE_NS 100000000ll  /* within which an entry must be added */
#define SOME 256u               /* more than the small ring holds */

static uint64_t unsent_bytes(const shmc *t, uint64_t *unsent)
{
    uint64_t bytes, capacity;

    shmc_outbox_measure(t, unsent, &bytes, &capacity);
    CHECK(bytes <= capacity && capacity == RING_BYTES - sizeof(shmc_outbox));
    return bytes;
}

/* ---- order, room */

static void test_entries_come_back_whole_and_in_order(void)
{
    shmc t;
    uint8_t name[SHMC_NAME_ROOM];
    uint64_t position = 0, number;
    make(&t, MIB);

    for (uint32_t len = 0; len <= 90; len++) {
        memset(name, 0xff - (int)len, len);
        CHECK(shmc_outbox_add(&t, 200, name, len, len, 0, &number) == SHMC_OK);
        shmc_number(&t);
    }
    memset(name, 0xff, SHMC_NAME_MAX);
    CHECK(shmc_outbox_add(&t, 255, name, SHMC_NAME_MAX, -1, 0, &number)
          == SHMC_OK);
    shmc_entry e;
    for (uint32_t len = 0; len <= 90; len++) {
        CHECK(shmc_outbox_next(&t, &position, &e, name) == SHMC_OK);
        CHECK(e.len == len && e.clock == len && e.at == len && e.kind == 200);
        for (uint32_t i = 0; i < len; i++)
            CHECK(name[i] == 0xff - len);
    }
    CHECK(shmc_outbox_next(&t, &position, &e, name) == SHMC_OK);
    CHECK(e.len == SHMC_NAME_MAX && e.kind == 255 && name[e.len - 1] == 0xff);
    CHECK(shmc_outbox_next(&t, &position, &e, name) == SHMC_MISS);
    CHECK(check_outbox(&t).unsent == 92);
    unmake(&t);
}

/* Its lengths make entries begin and end anywhere, and lie over the end. */
static void test_ring_goes_round_and_round(void)
{
    enum { KEPT = 5 };
    shmc t;
    uint64_t numbers[KEPT] = {0};
    uint32_t seen[KEPT];
    make_ring(&t);

    for (uint32_t i = 1; i < 5000; i++) {
        shmc_outbox_sent(&t, numbers[i % KEPT]);
        shmc_number(&t);
        numbers[i % KEPT] = add_entry(&t, i, i);
        uint32_t n = read_unsent(&t, seen, KEPT);
        CHECK(n == (i < KEPT ? i : KEPT) && seen[n - 1] == i);
        CHECK(shmc_outbox_lowest(&t) == (i < KEPT ? 1 : i - KEPT + 1));
    }
    CHECK(atomic_load(&t.outbox->tail) > 50 * shmc_ring_words(&t));
    CHECK(!shmc_outbox_overflow(&t) && check_outbox(&t).entries == KEPT);
    unmake(&t);
}

static void test_lowest_is_the_first_unsent_entrys(void)
{
    shmc t;
    uint64_t numbers[4], unsent;
    make_ring(&t);

    CHECK(shmc_outbox_lowest(&t) == UINT64_MAX);
    for (uint32_t i = 0; i < 4; i++) {
        numbers[i] = add_entry(&t, i + 1, 0);
        CHECK(shmc_outbox_lowest(&t) == 0);
        shmc_number(&t);
    }
    uint64_t all = unsent_bytes(&t, &unsent);
    CHECK(unsent == 4);
    shmc_outbox_sent(&t, numbers[1]);
    shmc_outbox_sent(&t, numbers[1]);
    CHECK(shmc_outbox_lowest(&t) == 0);
    CHECK(unsent_bytes(&t, &unsent) == all && unsent == 3);
    shmc_outbox_sent(&t, numbers[0]);
    CHECK(shmc_outbox_lowest(&t) == 2);
    CHECK(unsent_bytes(&t, &unsent) < all && unsent == 2);
    shmc_outbox_sent(&t, numbers[3]);
    shmc_outbox_sent(&t, numbers[2]);
    CHECK(shmc_outbox_lowest(&t) == UINT64_MAX);
    CHECK(unsent_bytes(&t, &unsent) == 0 && unsent == 0);
    unmake(&t);
}

/* Late, early, never given, and such as names spell. */
static void test_number_of_no_unsent_entry_changes_nothing(void)
{
    shmc t;
    uint64_t numbers[SOME], spelled[9];
    make_ring(&t);

    for (uint32_t i = 0; i < SOME; i++) {
        numbers[i] = add_entry(&t, i + 1, 0);
        if (i < SOME - 8)
            shmc_outbox_sent(&t, numbers[i]);
    }
    for (int i = 0; i < 9; i++)
        spelled[i] = 1ull << 63 | (numbers[SOME - 1] + 10);
    uint64_t more;
    CHECK(shmc_outbox_add(&t, 1, spelled, sizeof spelled, 0, 0, &more)
          == SHMC_OK);
    char *before = malloc(RING_BYTES);
    CHECK(before);
    memcpy(before, t.outbox, RING_BYTES);
    for (uint64_t n = 0; n < more + 2 * shmc_ring_words(&t); n++) {
        int given = n == more;
        for (uint32_t i = SOME - 8; i < SOME; i++)
            given |= n == numbers[i];
        if (!given)
            shmc_outbox_sent(&t, n);
    }
    shmc_outbox_sent(&t, UINT64_MAX);
    shmc_outbox_sent(&t, 1ull << 62 | more);
    CHECK(!memcmp(before, t.outbox, RING_BYTES));
    free(before);
    unmake(&t);
}

static uint32_t fill_ring(shmc *t, uint64_t *numbers)
{
    uint32_t n = 0;

    while (n < SOME && (numbers[n] = add_entry(t, n + 1, 0)))
        n++;
    CHECK(n > 20 && n < SOME);
    return n;
}

static void test_entry_without_room_is_marked_as_lost(void)
{
    shmc t;
    uint64_t numbers[SOME];
    uint32_t seen[SOME];
    make_ring(&t);

    for (int i = 0; i < 7; i++)
        shmc_number(&t);
    uint32_t n = fill_ring(&t, numbers);
    CHECK(shmc_outbox_overflow(&t) == (7 << 16 | 1));
    CHECK(read_unsent(&t, seen, SOME) == n);
    for (uint32_t i = 0; i < n; i++) {
        CHECK(seen[i] == i + 1);
        shmc_outbox_sent(&t, numbers[i]);
    }
    CHECK(shmc_outbox_lowest(&t) == 7);         /* the mark's */
    CHECK(check_outbox(&t).lost == (7 << 16 | 1));
    CHECK(add_entry(&t, 5, 0));
    CHECK(shmc_outbox_overflowed(&t, 7 << 16 | 1));
    CHECK(!shmc_outbox_overflow(&t) && !shmc_outbox_overflowed(&t, 0));
    unmake(&t);
}

static void test_mark_is_not_taken_back_if_more_was_lost_since(void)
{
    shmc t;
    uint64_t numbers[SOME], was = 0;
    make_ring(&t);

    fill_ring(&t, numbers);
    for (int i = 0; i < 70000; i++) {           /* the count goes round, past 0 */
        uint64_t seen = shmc_outbox_overflow(&t);
        CHECK(seen && seen != was && seen >> 16 == 0);
        shmc_number(&t);        /* a later one keeps the first one's clock */
        CHECK(!add_entry(&t, 60, 0));
        CHECK(!shmc_outbox_overflowed(&t, seen));
        was = seen;
    }
    unmake(&t);
}

/* ---- a step of another at the very moment */

static shmc *shared;
static uint64_t first_number;
static const char *meet_at;

static void sent_by_another(const char *at)
{
    if (strcmp(at, meet_at))
        return;
    on_step = NULL;
    shmc_outbox_sent(shared, first_number);
}

/* The one who has the lock tidies up for who had it not. */
static void test_what_is_sent_while_another_adds_is_not_left(void)
{
    static const char *const points[] = {
        "outbox.locked", "outbox.head", "outbox.lowest", "outbox.lowered",
        "outbox.begins", "outbox.added", "outbox.unlocked"
    };

    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        shmc t;
        uint64_t unsent;
        make_ring(&t);
        first_number = add_entry(&t, 1, 0);
        uint64_t one = unsent_bytes(&t, &unsent);
        shmc_number(&t);
        shared = &t;
        meet_at = points[i];
        on_step = sent_by_another;
        CHECK(add_entry(&t, 1, 0) && !on_step);
        CHECK(unsent_bytes(&t, &unsent) == one && unsent == 1);
        CHECK(shmc_outbox_lowest(&t) == 1);
        unmake(&t);
    }
}

/* All is sent, and the ring is written over, some times. */
static void go_round(const char *at)
{
    if (strcmp(at, "outbox.read"))
        return;
    on_step = NULL;
    uint64_t number = first_number;
    for (uint32_t i = 100; i < 200; i++) {
        shmc_outbox_sent(shared, number);
        number = add_entry(shared, i, 0);
        CHECK(number);
    }
}

static void test_reader_overtaken_by_the_ring_reads_what_stands_now(void)
{
    shmc t;
    shmc_entry e;
    uint8_t name[SHMC_NAME_ROOM];
    uint64_t position = 0;
    make_ring(&t);

    first_number = add_entry(&t, 1, 0);
    shared = &t;
    on_step = go_round;
    int rc = shmc_outbox_next(&t, &position, &e, name);
    CHECK(!on_step);
    /* beyond the tail that it knew it does not look */
    CHECK(rc == SHMC_MISS || whose(&e, name) == 199);
    CHECK(shmc_outbox_next(&t, &position, &e, name) == SHMC_OK);
    CHECK(whose(&e, name) == 199);
    unmake(&t);
}

static uint32_t looks;

static void look_on(const char *at)
{
    uint32_t seen[SOME];

    if (strncmp(at, "outbox.", 7))
        return;
    on_step = NULL;
    looks++;
    read_unsent(shared, seen, SOME);
    check_outbox(shared);
    on_step = look_on;
}

/* At each step a reader sees whole entries, none of them below `lowest`. */
static void test_reader_at_any_step_sees_whole_entries(void)
{
    shmc t;
    uint64_t numbers[3] = {0};
    make_ring(&t);

    shared = &t;
    on_step = look_on;
    for (uint32_t i = 1; i < 300; i++) {
        shmc_outbox_sent(&t, numbers[i % 3]);
        numbers[i % 3] = add_entry(&t, i, 0);
        shmc_number(&t);
    }
    on_step = NULL;
    CHECK(looks > 300 * 10);
    unmake(&t);
}

/* ---- killed at every step */

/* What a child that may be killed did so far, shared with it. */
struct diary {
    uint32_t added, lost;       /* calls that returned */
    uint64_t numbers[SOME];     /* of the entries, 0 if lost */
    uint8_t sending[SOME];      /* a call for it has begun */
};
static struct diary *diary;

static void send_one(shmc *t, uint32_t i)
{
    if (!diary->numbers[i] || diary->sending[i])
        return;
    diary->sending[i] = 1;
    shmc_outbox_sent(t, diary->numbers[i]);
}

static void add_one(shmc *t)
{
    uint32_t i = diary->added;

    diary->numbers[i] = add_entry(t, i + 1, i);
    diary->lost += !diary->numbers[i];
    diary->added = i + 1;
    shmc_number(t);
}

/* Fill the ring and more, send some before others, go round, send all but one. */
static void live(shmc *t)
{
    uint32_t seen[SOME];

    while (diary->lost < 3)
        add_one(t);
    for (uint32_t i = 3; i < diary->added; i += 3)
        send_one(t, i);
    for (uint32_t i = 0; i < diary->added; i++)
        send_one(t, i);
    for (int i = 0; i < 40; i++) {
        add_one(t);
        if (i % 3)
            send_one(t, diary->added - 1);
    }
    for (uint32_t i = 0; i + 1 < diary->added; i++)
        send_one(t, i);
    read_unsent(t, seen, SOME);
}

/* What was added stands unless its sending was begun; one more may stand. */
static void check_diary(shmc *t)
{
    uint32_t seen[SOME], n = read_unsent(t, seen, SOME), at = 0;

    for (uint32_t i = 0; i < diary->added; i++) {
        int stands = at < n && seen[at] == i + 1;
        at += (uint32_t)stands;
        CHECK(stands || !diary->numbers[i] || diary->sending[i]);
        CHECK(!stands || diary->numbers[i]);
    }
    CHECK(at == n || (at + 1 == n && seen[at] == diary->added + 1));
    CHECK(!diary->lost || shmc_outbox_overflow(t));
    check_outbox(t);
}

/* It serves on at once, and once there was time to tidy up nothing is left. */
static void check_service(shmc *t)
{
    uint32_t seen[SOME];
    int64_t start = clock_ns();
    uint64_t position = 0, mark;
    shmc_entry e;

    shmc_outbox_tidy(t);
    uint64_t number = add_entry(t, 77, 0);
    CHECK(clock_ns() - start < SERVICE_NS);
    CHECK(number || shmc_outbox_overflow(t));
    while (shmc_outbox_next(t, &position, &e, NULL) == SHMC_OK)
        shmc_outbox_sent(t, e.number);
    if ((mark = shmc_outbox_overflow(t)))
        CHECK(shmc_outbox_overflowed(t, mark));
    shmc_outbox_tidy(t);
    CHECK(!read_unsent(t, seen, SOME));
    CHECK(shmc_outbox_lowest(t) == UINT64_MAX);
    CHECK(atomic_load(&t->outbox->head) == atomic_load(&t->outbox->tail));
    CHECK(!check_outbox(t).orphaned);
}

static uint32_t met[128];       /* how often, by point */

static void begin_diary(shmc *t)
{
    make_ring(t);
    memset(diary, 0, sizeof *diary);
}

/* How often a life passes each point. */
static void count_passes(uint32_t *passes)
{
    shmc t;

    begin_diary(&t);
    failpoint_count_passes();
    live(&t);
    for (size_t p = 0; p < failpoint_count; p++)
        passes[p] = failpoint_passes(p);
    failpoint_disarm();
    check_diary(&t);
    CHECK(diary->added < SOME);
    unmake(&t);
}

static void test_kill_costs_at_most_the_entry_being_added(void)
{
    uint32_t passes[128];

    count_passes(passes);
    for (size_t p = 0; p < failpoint_count; p++)
        for (uint32_t i = 0; passes[p] && i < 12; i++) {
            shmc t;
            uint32_t nth = 1 + (passes[p] - 1) * i / 11;
            begin_diary(&t);
            CHECK(dies_at(&t, failpoints[p].name, nth, live));
            met[p]++;
            check_diary(&t);
            check_service(&t);
            unmake(&t);
        }
}

static void die_with_the_lock(shmc *t)
{
    begin_diary(t);
    for (int i = 0; i < 5; i++)
        add_one(t);
    CHECK(dies_at(t, "outbox.kind", 1, add_one));
}

static void test_recovery_killed_anywhere_is_begun_again(void)
{
    static const char *const points[] = {
        "outbox.recover", "outbox.consistent", "outbox.recovered",
        "outbox.locked", "outbox.head", "outbox.lowest"
    };

    for (size_t i = 0; i < sizeof points / sizeof *points; i++)
        for (int deaths = 1; deaths < 3; deaths++) {
            shmc t;
            die_with_the_lock(&t);
            CHECK(check_outbox(&t).orphaned);
            for (int n = 0; n < deaths; n++)
                CHECK(dies_at(&t, points[i], 1, add_one));
            met[failpoint_index(points[i])]++;
            check_diary(&t);
            check_service(&t);
            CHECK(t.counters[SHMC_C_LOCKS_RECOVERED] == 1);
            unmake(&t);
        }
}

/* Its entries are read and sent all the same; what is added is lost. */
static void test_lock_that_cannot_be_recovered_loses_what_is_added(void)
{
    shmc t;
    pid_t child;
    uint32_t seen[SOME];

    die_with_the_lock(&t);
    failpoint_arm("outbox.consistent", FAILPOINT_ERR, 1, 0);
    CHECK(run_child(&t, 1, add_one, &child) == 0);
    failpoint_disarm();
    CHECK(diary->lost == 1 && check_outbox(&t).disabled == 1);
    CHECK(!add_entry(&t, 9, 0) && (shmc_outbox_overflow(&t) & 0xffff) == 2);
    CHECK(read_unsent(&t, seen, SOME) == 5);
    for (int i = 0; i < 5; i++)
        shmc_outbox_sent(&t, diary->numbers[i]);
    CHECK(!read_unsent(&t, seen, SOME));
    unmake(&t);
}

static void test_killed_disabler_leaves_it_disabled(void)
{
    shmc t;

    die_with_the_lock(&t);
    failpoint_arm("outbox.consistent", FAILPOINT_ERR, 1, 0);
    failpoint_arm("outbox.disabled", FAILPOINT_KILL, 1, 0);
    pid_t child;
    CHECK(WIFSIGNALED(run_child(&t, 1, add_one, &child)));
    met[failpoint_index("outbox.disabled")]++;
    failpoint_disarm();
    CHECK(check_outbox(&t).disabled == 1 && !add_entry(&t, 9, 0));
    unmake(&t);
}

/* Ends that no ring can have: all is taken for lost, and it begins anew. */
static void test_damaged_ring_begins_anew_with_a_mark(void)
{
    static const struct { uint64_t head, tail; int entry; } damage[] = {
        {9, 3, 0}, {0, 1ull << 40, 0}, {1ull << 63, 1ull << 63, 1},
        {UINT64_MAX, 5, 0}, {0, 0, 1},
    };

    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++)
        for (int dies = 0; dies < 2; dies++) {
            shmc t;
            begin_diary(&t);
            add_one(&t);
            add_one(&t);
            if (damage[i].entry)
                atomic_store(&t.outbox->ring[0], 5);
            if (damage[i].head | damage[i].tail) {
                atomic_store(&t.outbox->head, damage[i].head);
                atomic_store(&t.outbox->tail, damage[i].tail);
            }
            if (dies && dies_at(&t, "outbox.reset", 1, add_one))
                met[failpoint_index("outbox.reset")]++;
            CHECK(add_entry(&t, 9, 0));
            CHECK(damage[i].head == 1ull << 63
                  || shmc_outbox_overflow(&t) >> 16 == 0);
            check_service(&t);
            unmake(&t);
        }
}

static void test_every_point_was_met(void)
{
    for (size_t p = 0; p < failpoint_count; p++)
        if (failpoints[p].place == IN_OUTBOX && !met[p]) {
            fprintf(stderr, "nobody was killed at %s\n", failpoints[p].name);
            abort();
        }
}

/* ---- stopped at every step */

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

/* What others do while a process is stopped: add, or note as lost, within 2 ms
 * and then at once; read; send what stands, which stands no more. How long the
 * first add took if the lock was not to be had, else 0.
 */
static int64_t act_beside(shmc *t)
{
    uint32_t seen[SOME], n = 0;
    uint64_t position = 0, was = shmc_outbox_overflow(t);
    shmc_entry e;
    int64_t start = clock_ns();
    uint64_t number = add_entry(t, 90, 0);
    int64_t took = clock_ns() - start;

    CHECK(number || shmc_outbox_overflow(t) != was);
    check_outbox(t);
    while (shmc_outbox_next(t, &position, &e, NULL) == SHMC_OK) {
        shmc_outbox_sent(t, e.number);
        n++;
    }
    CHECK(n >= (number > 0) && !read_unsent(t, seen, SOME));
    return t->counters[SHMC_C_LOCK_TIMEOUTS] ? took : 0;
}

static void test_stopped_process_holds_nobody_up(void)
{
    static int64_t waited[128];
    uint32_t passes[128], timeouts = 0, stops = 0;

    count_passes(passes);
    for (size_t p = 0; p < failpoint_count; p++) {
        shmc t, other;
        pid_t child;
        int status;
        if (!passes[p])
            continue;
        begin_diary(&t);
        failpoint_arm(failpoints[p].name, FAILPOINT_STOP,
                      (passes[p] + 1) / 2, 0);
        CHECK(WIFSTOPPED(run_child(&t, 1, live, &child)));
        failpoint_disarm();
        stops++;
        check_diary(&t);
        attach(&other, t.base, t.g.size);
        int64_t took = act_beside(&other);
        CHECK(!took || took >= WAIT_NS);
        if (took)
            waited[timeouts++] = took;
        CHECK(!kill(child, SIGCONT));
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        check_service(&t);
        unmake(&t);
    }
    CHECK(stops > 12 && timeouts > 8);
    CHECK(median(waited, timeouts) < 2 * WAIT_NS);
}

static void test_add_that_need_not_wait_only_tries(void)
{
    enum { N = 21 };
    shmc t;
    pid_t child;
    int64_t took[N];
    uint64_t number;

    begin_diary(&t);
    failpoint_arm("outbox.locked", FAILPOINT_STOP, 1, 0);
    CHECK(WIFSTOPPED(run_child(&t, 1, live, &child)));
    failpoint_disarm();
    for (int i = 0; i < N; i++) {
        int64_t start = clock_ns();
        CHECK(shmc_outbox_add(&t, 1, "", 0, 0, 0, &number) == SHMC_BUSY);
        took[i] = clock_ns() - start;
    }
    CHECK(median(took, N) < AT_ONCE_NS && !shmc_outbox_overflow(&t));
    CHECK(!kill(child, SIGKILL) && waitpid(child, NULL, 0) == child);
    CHECK(add_entry(&t, 1, 0));
    unmake(&t);
}

static const struct test tests[] = {
    TEST(test_entries_come_back_whole_and_in_order),
    TEST(test_ring_goes_round_and_round),
    TEST(test_lowest_is_the_first_unsent_entrys),
    TEST(test_number_of_no_unsent_entry_changes_nothing),
    TEST(test_entry_without_room_is_marked_as_lost),
    TEST(test_mark_is_not_taken_back_if_more_was_lost_since),
    TEST(test_what_is_sent_while_another_adds_is_not_left),
    TEST(test_reader_overtaken_by_the_ring_reads_what_stands_now),
    TEST(test_reader_at_any_step_sees_whole_entries),
    TEST(test_kill_costs_at_most_the_entry_being_added),
    TEST(test_recovery_killed_anywhere_is_begun_again),
    TEST(test_lock_that_cannot_be_recovered_loses_what_is_added),
    TEST(test_killed_disabler_leaves_it_disabled),
    TEST(test_damaged_ring_begins_anew_with_a_mark),
    TEST(test_every_point_was_met),
    TEST(test_stopped_process_holds_nobody_up),
    TEST(test_add_that_need_not_wait_only_tries),
};

int main(int argc, char **argv)
{
    CHECK(failpoint_count <= 128);
    diary = map_segment(2 * SHMC_PAGE);
    CHECK(sizeof *diary <= 2 * SHMC_PAGE);
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
