/* test_kills.c: a process killed at every point of the core, in turn.
 *
 * Afterwards the shard serves on at once, and what stood before stands: nothing
 * was lost but the record that was being stored, and what the very same call
 * puts out when nobody is killed.
 */
#include "scene.h"

#define SERVICE_NS 100000000ll  /* within which a store must be made */

static uint32_t killed[128];    /* how often, by point */

static void store_at_once(shmc *t, uint32_t key)
{
    int64_t start = clock_ns();

    CHECK(put_number(t, key, 99) == SHMC_OK);
    CHECK(clock_ns() - start < SERVICE_NS);
    CHECK(stands(t, key));
}

/* Whether a key may read as `salt` after a kill in call `i`. */
static int may_stand(const struct stage *g, uint32_t i, uint32_t key,
                     uint32_t salt)
{
    const struct call *c = &g->calls[i];
    uint32_t before = g->after[i][key], after = g->after[i + 1][key];

    if (salt == before || salt == after)
        return 1;
    /* its own old record may have been put out to make room for the new */
    return salt == ABSENT && key == c->key && g->scene != &with_room;
}

static void check_what_stands(struct stage *g, uint32_t i)
{
    static uint32_t now[SCENE_KEYS];

    note_what_stands(&g->t, now);
    for (uint32_t k = 0; k < SCENE_KEYS; k++)
        if (!may_stand(g, i, k, now[k])) {
            fprintf(stderr, "call %u (key %u): key %u stands as %x, was %x, "
                    "becomes %x\n", i, g->calls[i].key, k, now[k],
                    g->after[i][k], g->after[i + 1][k]);
            abort();
        }
}

/* Kill a child at the nth pass of a point, and see what it left. */
static void kill_once(struct stage *g, size_t point, uint32_t nth)
{
    shmc_word *counters;

    rewind_stage(g);
    *g->at = 0;
    CHECK(dies_at(&g->t, failpoints[point].name, nth, act));
    killed[point]++;
    check_what_stands(g, *g->at);
    store_at_once(&g->t, SCENE_KEYS + 1);
    check_books(&g->t);
    counters = g->t.slots[1].counters;
    /* writers read too: such a point may be under the lock, or not */
    uint64_t recovered = g->t.counters[SHMC_C_LOCKS_RECOVERED];
    CHECK(recovered == 1 || (!recovered
                             && failpoints[point].place != IN_SHARD));
    act(&g->t);                 /* what it did not come to do */
    check_books(&g->t);
    CHECK(g->t.counters[SHMC_C_SHARDS_WIPED] + counters[SHMC_C_SHARDS_WIPED]
          == 0);
}

/* At the first, the last and some passes between, of all that a scene meets. */
static void kill_all_over(const struct scene *scene)
{
    static struct stage g;

    set_stage(&g, scene);
    for (size_t p = 0; p < failpoint_count; p++) {
        uint32_t n = g.passes[p], last = 0;
        for (uint32_t i = 0; n && i < 5; i++) {
            uint32_t nth = 1 + (uint32_t)((uint64_t)(n - 1) * i / 4);
            if (nth != last)
                kill_once(&g, p, nth);
            last = nth;
        }
    }
    strike_stage(&g);
}

static void test_kill_with_room_costs_nothing_but_the_store(void)
{
    kill_all_over(&with_room);
}

static void test_kill_in_eviction_costs_what_it_would_have_evicted(void)
{
    kill_all_over(&when_full);
}

/* ---- kills in the recovery from a kill */

static void put_one(shmc *t)
{
    put_number(t, 1, 1);
}

static void die_with_the_lock(shmc *t)
{
    CHECK(dies_at(t, "put.locked", 1, put_one));
}

/* Kill every recoverer but the last, at each pass of each point that it meets,
 * from the state that `ready` makes. `after` sees what stands in the end.
 */
static void kill_recoverers(void (*ready)(shmc *t), void (*after)(shmc *t))
{
    static char before[MIB];
    shmc t;

    make_small(&t);
    for (uint32_t k = 0; k < 50; k++)
        CHECK(put_number(&t, k, 0) == SHMC_OK);
    ready(&t);
    memcpy(before, t.base, MIB);
    for (size_t p = 0; p < failpoint_count; p++) {
        uint32_t step = 1;      /* a wipe has thousands of passes of its own */
        if (failpoints[p].place != IN_RECOVERY
            && strncmp(failpoints[p].name, "reset.", 6))
            continue;
        for (uint32_t nth = 1; ; nth += step, step *= 3) {
            memcpy(t.base, before, MIB);
            memset(t.scratch, 0, sizeof t.scratch);
            if (!dies_at(&t, failpoints[p].name, nth, put_one))
                break;
            killed[p]++;
            dies_at(&t, failpoints[p].name, nth, put_one);
            store_at_once(&t, 60);
            check_books(&t);
            after(&t);
        }
    }
    unmake(&t);
}

static void sees_all(shmc *t)
{
    for (uint32_t k = 2; k < 50; k++)
        CHECK(stands(t, k));
    CHECK(!t->counters[SHMC_C_SHARDS_WIPED]);
}

static void test_recovery_killed_anywhere_is_begun_again(void)
{
    kill_recoverers(die_with_the_lock, sees_all);
}

static uint64_t generation;

/* Headers that no writer leaves: younger than their extents. */
static void contradict(shmc *t)
{
    t->shards[0].opened = 0;
    generation = shmc_load(&t->shards[0].generations[3]);
    die_with_the_lock(t);
}

static void sees_none(shmc *t)
{
    for (uint32_t k = 2; k < 50; k++)
        CHECK(!stands(t, k));
    CHECK(shmc_load(&t->shards[0].generations[3]) > generation);
    CHECK(t->counters[SHMC_C_SHARDS_WIPED]
          + t->slots[1].counters[SHMC_C_SHARDS_WIPED] <= 1);
}

static void test_wipe_killed_anywhere_is_begun_again(void)
{
    kill_recoverers(contradict, sees_none);
}

/* ---- a lock that cannot be made consistent */


/* Keys of shard 0 miss and are not stored; those of others are as before. */
static void check_disabled(shmc *t)
{
    shmc_usage u;

    for (uint32_t k = 0; k < 100; k++) {
        shmc_place at;
        shmc_place_of(t, shmc_hash(t, &k, 4), &at);
        CHECK(stands(t, k) == (at.shard != 0));
        CHECK(put_number(t, k, 2) == (at.shard ? SHMC_OK : SHMC_DISABLED));
        CHECK(stands(t, k) == (at.shard != 0));
        CHECK(drop_number(t, k) == (at.shard ? SHMC_OK : SHMC_DISABLED));
        CHECK(put_number(t, k, 2) == (at.shard ? SHMC_OK : SHMC_DISABLED));
    }
    shmc_measure(t, SHMC_SHARDS_MAX, &u);
    CHECK(u.disabled_shards == 1);
    shmc_measure(t, 0, &u);
    CHECK(u.disabled_shards == 1);
}

static uint32_t key_of_shard(shmc *t, uint32_t shard)
{
    shmc_place at;

    for (uint32_t k = 0; ; k++) {
        shmc_place_of(t, shmc_hash(t, &k, 4), &at);
        if (at.shard == shard)
            return k;
    }
}

static uint32_t own_key;

static void put_own(shmc *t)
{
    put_number(t, own_key, 1);
}

/* Try to disable shard 0, and be killed at the nth pass of a point (NULL: not
 * at all). Nonzero if it was.
 */
static int disabler_dies_at(shmc *t, const char *point, uint32_t nth)
{
    pid_t child;

    failpoint_disarm();
    failpoint_arm("recover.consistent", FAILPOINT_ERR, 1, 0);
    if (point)
        failpoint_arm(point, FAILPOINT_KILL, nth, 0);
    int status = run_child(t, 1, put_own, &child);
    failpoint_disarm();
    CHECK(WIFSIGNALED(status) || status == 0);
    return WIFSIGNALED(status);
}

static void make_of_four_shards(shmc *t)
{
    shmc_geometry g;

    CHECK(shmc_plan(2 * MIB, 0, 4, &g) == SHMC_OK && g.shards == 4);
    make_with(t, &g);
    for (uint32_t k = 0; k < 100; k++)
        CHECK(put_number(t, k, 0) == SHMC_OK);
    own_key = key_of_shard(t, 0);
    CHECK(dies_at(t, "put.locked", 1, put_own));
}

static void test_lock_that_cannot_be_recovered_disables_its_shard(void)
{
    shmc t;

    make_of_four_shards(&t);
    CHECK(!disabler_dies_at(&t, NULL, 0));
    check_disabled(&t);
    unmake(&t);
}

/* Whoever comes next tries again: here, with success. */
static void test_killed_disabler_leaves_a_lock_to_recover(void)
{
    static const char *const points[] = {
        "recover.consistent", "clear.word", "disable.index",
        "disable.generations"
    };

    for (size_t i = 0; i < sizeof points / sizeof *points; i++)
        for (int deaths = 1; deaths < 3; deaths++) {
            shmc t;
            make_of_four_shards(&t);
            for (int n = 0; n < deaths; n++)
                CHECK(disabler_dies_at(&t, points[i], 1));
            killed[failpoint_index(points[i])]++;
            CHECK(!disabler_dies_at(&t, NULL, 0));
            check_disabled(&t);
            unmake(&t);
        }
}

static void test_killed_disabler_may_have_left_a_sound_shard(void)
{
    shmc t;

    make_of_four_shards(&t);
    CHECK(disabler_dies_at(&t, "disable.generations", 1));
    for (uint32_t k = 0; k < 100; k++)
        store_at_once(&t, k);
    check_books(&t);
    unmake(&t);
}

/* Points of claims, outbox, making and attaching are met elsewhere. */
static void test_every_point_was_met(void)
{
    for (size_t p = 0; p < failpoint_count; p++)
        if (failpoints[p].place != IN_INIT && failpoints[p].place != IN_OUTBOX
            && strncmp(failpoints[p].name, "claim.", 6)
            && strncmp(failpoints[p].name, "note.", 5) && !killed[p]) {
            fprintf(stderr, "nobody was killed at %s\n", failpoints[p].name);
            abort();
        }
}

static const struct test tests[] = {
    TEST(test_kill_with_room_costs_nothing_but_the_store),
    TEST(test_kill_in_eviction_costs_what_it_would_have_evicted),
    TEST(test_recovery_killed_anywhere_is_begun_again),
    TEST(test_wipe_killed_anywhere_is_begun_again),
    TEST(test_lock_that_cannot_be_recovered_disables_its_shard),
    TEST(test_killed_disabler_leaves_a_lock_to_recover),
    TEST(test_killed_disabler_may_have_left_a_sound_shard),
    TEST(test_every_point_was_met),
};

MAIN(tests)
