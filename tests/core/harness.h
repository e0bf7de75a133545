/* harness.h: what the C tests share: a segment in shared memory, records that
 * name themselves, a hook at the core's steps, children to kill.
 */
#ifndef SHMC_HARNESS_H
#define SHMC_HARNESS_H

#define _GNU_SOURCE
#include "failpoint.h"
#include "inner.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB (1u << 20)
#define CHECK(what) do { if (!(what)) { \
    fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
    abort(); } } while (0)

#define GUARD (64u * MIB)       /* unreadable, before and behind a segment */

/* The segment under test: mapped shared, with unreadable pages around it. */
static inline void *map_segment(size_t size)
{
    char *p = mmap(NULL, size + 2 * GUARD, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(p != MAP_FAILED);
    p += GUARD;
    CHECK(mmap(p, size, PROT_READ | PROT_WRITE,
               MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
    return p;
}

static inline void unmap_segment(void *base, size_t size)
{
    CHECK(!munmap((char *)base - GUARD, size + 2 * GUARD));
}

static inline void attach(shmc *t, void *base, size_t size)
{
    CHECK(shmc_attach(t, base, size, 0) == SHMC_OK);
}

/* Attach as the process of a slot: what it counts outlives it. */
static inline void attach_as(shmc *t, const shmc *of, uint32_t slot)
{
    attach(t, of->base, of->g.size);
    t->counters = t->slots[slot].counters;
}

/* A segment of a geometry of our own, attached as `t`. */
static inline void *make_with(shmc *t, const shmc_geometry *g)
{
    static const uint64_t seed[2] = {11, 22};
    shmc_identity id = {.uid = 7};
    void *base = map_segment(g->size);

    CHECK(shmc_init(base, g, &id, seed) == SHMC_OK);
    attach(t, base, g->size);
    return base;
}

static inline void *make(shmc *t, size_t size)
{
    shmc_geometry g;

    CHECK(shmc_plan(size, 0, 0, &g) == SHMC_OK);
    return make_with(t, &g);
}

/* A segment of one shard whose extents hold few records each: it is full, and
 * every step of emptying is met, soon.
 */
static inline void make_small(shmc *t)
{
    shmc_geometry g;

    CHECK(shmc_plan(MIB, 0, 0, &g) == SHMC_OK);
    CHECK(g.shards == 1);
    g.extent_bytes = 4096;
    make_with(t, &g);
}

static inline void unmake(shmc *t)
{
    unmap_segment(t->base, t->g.size);
}

/* ---- records that name themselves */

#define SIZED 0x80000000u       /* a salt that says the value's length itself */

/* The length of the value that a key has under a salt: 8 to 907 bytes, or as
 * the salt says.
 */
static inline uint32_t length_of(uint32_t key, uint32_t salt)
{
    return salt & SIZED ? salt & ~SIZED
        : 8 + (key * 2654435761u + salt * 40503u) % 900;
}

/* A record's value: its key and salt, repeated, so that a foreign or a torn one
 * shows.
 */
static inline uint32_t value_of(uint32_t key, uint32_t salt, char *out)
{
    uint32_t len = length_of(key, salt), i = 0;

    for (; i + 8 <= len; i += 8) {
        memcpy(out + i, &key, 4);
        memcpy(out + i + 4, &salt, 4);
    }
    memset(out + i, (int)(key + salt) & 0xff, len - i);
    return len;
}

/* Room for any value of a test's; one for each thread. */
static inline char *room_for_value(int which)
{
    static _Thread_local char room[2][MIB];

    return room[which];
}

/* A store of a number's value, ready to be made or changed. */
static inline shmc_store store_of(shmc *t, const uint32_t *key, uint32_t salt)
{
    char *value = room_for_value(0);

    return (shmc_store){.key = key, .key_len = 4, .value = value,
        .value_len = value_of(*key, salt, value), .birth = 1,
        .fresh_until = SHMC_FOREVER, .dead_at = SHMC_FOREVER,
        .stamp = shmc_clock(t), .nonce = salt, .claim = SHMC_NO_CLAIM,
        .wait = 1};
}

static inline int put_number(shmc *t, uint32_t key, uint32_t salt)
{
    uint64_t stamp;
    shmc_store s = store_of(t, &key, salt);
    char *value = malloc(s.value_len + 1);      /* a hook may store meanwhile */

    CHECK(value);
    s.value = memcpy(value, s.value, s.value_len);
    int rc = shmc_put(t, &s, 1, &stamp);
    free(value);
    return rc;
}

static inline int drop_number(shmc *t, uint32_t key)
{
    return shmc_drop(t, &key, 4, 0, 0, 1);
}

static inline int find_number(shmc *t, uint32_t key, shmc_found *f)
{
    return shmc_find(t, &key, 4, shmc_hash(t, &key, 4), 1, f);
}

/* Read a number's record and check it against itself. SHMC_OK, with its salt,
 * or SHMC_MISS. Notes no hit.
 */
static inline int look_number(shmc *t, uint32_t key, uint32_t *salt,
                              shmc_found *f)
{
    char *value = room_for_value(0), *want = room_for_value(1);

    for (int i = 0; i < 8; i++) {
        if (find_number(t, key, f) != SHMC_OK)
            return SHMC_MISS;
        CHECK(f->length <= MIB);
        int rc = shmc_copy(t, f, value);
        if (rc == SHMC_CHANGED)
            continue;
        if (rc == SHMC_MISS)
            return SHMC_MISS;
        *salt = (uint32_t)f->head.nonce;
        CHECK(f->length == value_of(key, *salt, want));
        CHECK(!memcmp(value, want, f->length));
        return SHMC_OK;
    }
    return SHMC_MISS;
}

/* The same, as a hit. */
static inline int get_number(shmc *t, uint32_t key)
{
    uint32_t salt;
    shmc_found f;

    if (look_number(t, key, &salt, &f) != SHMC_OK)
        return SHMC_MISS;
    shmc_touch(t, &f);
    return SHMC_OK;
}

/* Whether a number's record stands, which is not noted as a hit. */
static inline int stands(shmc *t, uint32_t key)
{
    uint32_t salt;
    shmc_found f;

    return look_number(t, key, &salt, &f) == SHMC_OK;
}

/* The queue that a number's record stands in. */
static inline uint32_t queue_of(shmc *t, uint32_t key)
{
    shmc_found f;
    shmc_place at;

    CHECK(find_number(t, key, &f) == SHMC_OK);
    shmc_place_of(t, f.hash, &at);
    return t->shards[at.shard].extents[shmc_word_extent(f.word)].queue;
}

/* Nothing contradicts anything in the outbox. What stands there. */
static inline shmc_outbox_report check_outbox(shmc *t)
{
    shmc_outbox_report r;

    shmc_check_outbox(t, &r);
    for (int kind = 0; kind < SHMC_O_KINDS; kind++) {
        if (r.found[kind])
            fprintf(stderr, "outbox: fault %d\n", kind);
        CHECK(!r.found[kind]);
    }
    return r;
}

/* Nothing contradicts anything, in any shard. What stands there, summed. */
static inline shmc_report check_books(shmc *t)
{
    uint64_t *starts = calloc(shmc_check_words(t), 8);
    shmc_stripes stripes;
    shmc_report sum = {0}, r;

    CHECK(starts);
    for (uint32_t shard = 0; shard < t->g.shards; shard++) {
        shmc_check(t, shard, starts, &r);
        for (uint32_t i = 0; i < r.told; i++)
            fprintf(stderr, "shard %u: fault %u: extent %u offset %u slot %u\n",
                    shard, r.faults[i].kind, r.faults[i].extent,
                    r.faults[i].offset, r.faults[i].slot);
        CHECK(!r.told && !r.unsettled && !r.orphaned);
        sum.records += r.records;
        sum.live_bytes += r.live_bytes;
        sum.pieces += r.pieces;
        sum.chains += r.chains;
        sum.broken_chains += r.broken_chains;
        sum.orphan_pieces += r.orphan_pieces;
        sum.drifted += r.drifted;
    }
    shmc_check_stripes(t, &stripes);
    CHECK(!stripes.above_clock && !stripes.above_top);
    check_outbox(t);
    free(starts);
    return sum;
}

/* ---- time, children */

static inline int64_t clock_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* A child that does not outlive the test, be it stopped. As fork. */
static inline pid_t fork_child(void)
{
    fflush(stdout);
    pid_t child = fork();

    CHECK(child >= 0);
    if (!child)
        CHECK(!prctl(PR_SET_PDEATHSIG, SIGKILL));
    return child;
}

/* Run `work` in a child with an attachment of its own, and with what is armed
 * here. How it ended, or was stopped, as of waitpid; *child is its pid.
 */
static inline int run_child(shmc *t, uint32_t slot, void (*work)(shmc *t),
                            pid_t *child)
{
    int status;

    *child = fork_child();
    if (!*child) {
        shmc own;
        attach_as(&own, t, slot);
        work(&own);
        _exit(0);
    }
    CHECK(waitpid(*child, &status, WUNTRACED) == *child);
    return status;
}

/* Run `work` in a child that is killed at the nth pass of a point. Nonzero if
 * it died there; else it came to its end.
 */
static inline int dies_at(shmc *t, const char *point, uint32_t nth,
                          void (*work)(shmc *t))
{
    pid_t child;

    failpoint_disarm();
    failpoint_arm(point, FAILPOINT_KILL, nth, 0);
    int status = run_child(t, 1, work, &child);
    failpoint_disarm();
    CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : !status);
    return WIFSIGNALED(status);
}

/* ---- the tests of a program */

struct test {
    const char *name;
    void (*run)(void);
};
#define TEST(name) {#name, name}

/* Run them all, or those whose names are given. */
static inline int run_tests(const struct test *tests, size_t n, int argc,
                            char **argv)
{
    for (size_t i = 0; i < n; i++) {
        int wanted = argc < 2;
        for (int a = 1; a < argc; a++)
            wanted |= !strcmp(argv[a], tests[i].name);
        if (!wanted)
            continue;
        int64_t start = clock_ns();
        printf("%s", tests[i].name);
        fflush(stdout);
        tests[i].run();
        on_step = NULL;
        failpoint_disarm();
        printf(" %.2f s\n", (double)(clock_ns() - start) / 1e9);
    }
    return 0;
}

#define MAIN(tests) int main(int argc, char **argv) \
{ \
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv); \
}

#endif
