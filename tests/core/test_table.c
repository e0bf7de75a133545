/* test_table.c: the core without Python: layout, index, reuse, kills, locks.
 *
 * Built with -DSHMC_STEPS, so that a test can stand at any step of the core.
 * Run without arguments under ASan and UBSan.
 */
#include "harness.h"
#include "hash.h"

step_hook on_step;

void shmc_step(const char *at)
{
    if (on_step)
        on_step(at);
}

/* ---- hash, plan, attach */

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

    CHECK(shmc_plan(MIB - 4096, 0, &g) == SHMC_TOO_SMALL);
    for (uint64_t mib = 1; mib <= 64 * 1024; mib = mib * 3 / 2 + 1) {
        CHECK(shmc_plan(mib * MIB, 0, &g) == SHMC_OK);
        CHECK(!(g.shards & (g.shards - 1)));
        CHECK(mib < 64 || g.shards >= 8);
        CHECK(g.extent_bytes % 64 == 0);
        CHECK(mib > 32 * 1024 || g.extent_bytes <= 512 * 1024);
        uint64_t slots = (uint64_t)g.shards * g.buckets * SHMC_WAYS;
        CHECK(slots * 270 < g.size && slots * 450 > g.size);
        CHECK(shmc_plan(mib * MIB, 60000, &g) == SHMC_OK);
    }
    CHECK(shmc_plan(64 * MIB, 41000, &g) == SHMC_OK);
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

/* ---- records */

static int put_bytes(shmc *t, const char *key, uint32_t key_len, uint32_t len,
                     uint32_t ntags)
{
    static char value[MIB];
    static uint32_t tags[SHMC_TAGS_MAX];
    uint64_t stamp;
    shmc_store s = {.key = key, .key_len = key_len, .value = value,
        .value_len = len, .ntags = (uint8_t)ntags, .tags = tags, .birth = 1,
        .fresh_until = 10, .dead_at = 20, .claim = SHMC_NO_CLAIM};

    return shmc_put(t, &s, 1, &stamp);
}

static void test_sizes_at_their_limits_are_stored_whole(void)
{
    static char key[SHMC_KEY_MAX], value[MIB];
    shmc t;
    make(&t, MIB);
    uint32_t most = t.g.extent_bytes - SHMC_FIRST - sizeof(shmc_record) - 1024
        - 4 * SHMC_TAGS_MAX;
    most &= ~7u;

    CHECK(put_bytes(&t, key, SHMC_KEY_MAX, most + 8, SHMC_TAGS_MAX)
          == SHMC_TOO_LARGE);
    CHECK(put_bytes(&t, key, SHMC_KEY_MAX, UINT32_MAX, 0) == SHMC_TOO_LARGE);
    for (uint32_t len = 1; len <= SHMC_KEY_MAX; len += 341) {
        shmc_found f;
        uint64_t hash = shmc_hash(&t, key, len);
        CHECK(put_bytes(&t, key, len, most, SHMC_TAGS_MAX) == SHMC_OK);
        CHECK(shmc_find(&t, key, len, hash, 1, &f) == SHMC_OK);
        CHECK(f.head.value_len == most && f.head.ntags == SHMC_TAGS_MAX);
        CHECK(shmc_copy(&t, &f, value) == SHMC_OK);
        CHECK(put_bytes(&t, key, len, 0, 0) == SHMC_OK);
        CHECK(shmc_find(&t, key, len, hash, 1, &f) == SHMC_OK);
        CHECK(f.head.value_len == 0 && shmc_copy(&t, &f, value) == SHMC_OK);
    }
}

static uint64_t slot_of_number(shmc *t, uint32_t key)
{
    shmc_found f;

    CHECK(shmc_find(t, &key, 4, shmc_hash(t, &key, 4), 1, &f) == SHMC_OK);
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
    CHECK(shmc_plan(MIB, 0, &g) == SHMC_OK);
    g.buckets = 2;
    make_with(&t, &g);

    for (uint32_t k = 0; k < 16; k++) {
        CHECK(put_number(&t, k, 0) == SHMC_OK);
        if (k == 4)             /* what follows stands in a later extent */
            t.shards[0].open[SHMC_Q_PROBATION - 1] = SHMC_NO_EXTENT;
        if (k != 2 && k != 9)
            get_number(&t, k);
    }
    CHECK(put_number(&t, 100, 0) == SHMC_OK);
    CHECK(get_number(&t, 2) == SHMC_MISS && get_number(&t, 9) == SHMC_OK);
    CHECK(t.counters[SHMC_C_NO_SLOT] == 1);
    for (uint32_t k = 0; k < 16; k++)
        CHECK(k == 2 || get_number(&t, k) == SHMC_OK);
    CHECK(get_number(&t, 100) == SHMC_OK);
}

/* ---- eviction and reuse */

/* What the headers say must be what the index says, and no key stands twice. */
static void check_books(shmc *t, uint32_t keys)
{
    uint32_t indexed = 0, live = 0;
    size_t words = (size_t)t->g.shards * t->g.buckets * SHMC_WAYS;

    for (size_t i = 0; i < words; i++) {
        uint64_t w = atomic_load(&t->index[i]);
        size_t shard = i / (t->g.buckets * SHMC_WAYS);
        if (!w)
            continue;
        CHECK(shmc_word_current(&t->shards[shard], w));
        CHECK(shmc_word_offset(w)
              < t->shards[shard].extents[shmc_word_extent(w)].fill);
        indexed++;
    }
    for (uint32_t k = 0; k < keys; k++)
        live += get_number(t, k) == SHMC_OK;
    CHECK(indexed == live);
}

static void test_full_segment_evicts_oldest_first(void)
{
    enum { KEYS = 20000 };
    shmc t;
    shmc_usage u;
    make(&t, MIB);
    uint32_t k = 0;

    while (!t.counters[SHMC_C_EVICTED])
        CHECK(put_number(&t, k++, 0) == SHMC_OK);
    uint32_t gone = (uint32_t)t.counters[SHMC_C_EVICTED];
    for (uint32_t i = 0; i < k; i++)
        CHECK(get_number(&t, i) == (i < gone ? SHMC_MISS : SHMC_OK));
    for (; k < KEYS; k++)
        CHECK(put_number(&t, k, 0) == SHMC_OK);
    check_books(&t, KEYS);
    shmc_measure(&t, &u);
    CHECK(u.records + t.counters[SHMC_C_EVICTED] + t.counters[SHMC_C_NO_SLOT]
          == KEYS);
    CHECK(u.live_bytes > u.capacity_bytes * 9 / 10);
}

static void test_emptying_counts_why_a_record_went(void)
{
    shmc t;
    make(&t, MIB);
    uint64_t stamp;
    uint32_t tag = 9, key = 1 << 30;
    shmc_store s = {.key = &key, .key_len = 4, .value = "", .birth = 1,
        .fresh_until = 2, .dead_at = 2, .claim = SHMC_NO_CLAIM};

    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_OK);  /* will have expired */
    s.tags = &tag;
    s.ntags = 1;
    key++;
    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_OK);  /* been invalidated */
    shmc_raise(shmc_tag_stripe(&t, tag, 0), shmc_number(&t));
    for (uint32_t k = 0; !t.counters[SHMC_C_EVICTED]; k++) {
        char value[1024];
        s = (shmc_store){.key = &k, .key_len = 4, .value = value,
            .value_len = value_of(k, 0, value), .fresh_until = 9, .dead_at = 9,
            .stamp = 9, .claim = SHMC_NO_CLAIM};
        CHECK(shmc_put(&t, &s, 5, &stamp) == SHMC_OK);
    }
    CHECK(t.counters[SHMC_C_EXPIRED] == 1);
    CHECK(t.counters[SHMC_C_INVALIDATED] == 1);
}

static void test_reader_that_slept_through_a_reuse_learns_it(void)
{
    shmc t;
    shmc_found f;
    uint32_t key = 0;
    char value[1024];
    make(&t, MIB);

    put_number(&t, key, 0);
    CHECK(shmc_find(&t, &key, 4, shmc_hash(&t, &key, 4), 1, &f) == SHMC_OK);
    for (uint32_t k = 1; get_number(&t, key) == SHMC_OK; k++)
        put_number(&t, k, 0);
    CHECK(shmc_copy(&t, &f, value) == SHMC_CHANGED);
}

static shmc *shared;

/* Stand in for 65,536 reuses between a reader's load of the slot and its load
 * of the generation: the low bits are the same again, the slot means nothing.
 */
static void wrap_generation(const char *at)
{
    if (strcmp(at, "look.slot"))
        return;
    on_step = NULL;
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
    on_step = wrap_generation;
    CHECK(get_number(&t, 1) == SHMC_MISS);
    CHECK(!on_step);
}

/* Between a reader's load of the slot and its look at the record, the key is
 * replaced in its own slot, and the old record's extent is emptied.
 */
static void move_record(const char *at)
{
    shmc t;

    if (strcmp(at, "look.slot"))
        return;
    on_step = NULL;
    attach(&t, shared->base, shared->g.size);
    for (uint32_t k = 2; t.shards[0].open[SHMC_Q_PROBATION - 1] == 0; k++)
        put_number(&t, k, 0);
    put_number(&t, 1, 1);
    for (uint32_t k = 2; shmc_load(&t.shards[0].generations[0]) < 2; k++)
        put_number(&t, k, 0);
}

static void test_record_that_moved_is_no_miss(void)
{
    shmc t;
    make(&t, MIB);

    put_number(&t, 1, 0);
    CHECK(shmc_word_extent(slot_of_number(&t, 1)) == 0);
    shared = &t;
    on_step = move_record;
    CHECK(get_number(&t, 1) == SHMC_OK);
    CHECK(!on_step && t.counters[SHMC_C_RETRIES] == 1);
}

/* ---- kills: at every step of a workload, in turn */

static int steps_left;

static void die_in_time(const char *at)
{
    (void)at;
    if (steps_left-- == 0)
        kill(getpid(), SIGKILL);
}

/* Run `work` in a child that dies at step `n`. Nonzero if it died there. */
static int dies_at(int n, void (*work)(shmc *t), shmc *t)
{
    int status;
    pid_t child = fork();

    CHECK(child >= 0);
    if (!child) {
        shmc own;
        attach(&own, t->base, t->g.size);
        steps_left = n;
        on_step = die_in_time;
        work(&own);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : !status);
    return WIFSIGNALED(status);
}

/* Fills the last of an extent and opens the next, which empties one. */
static void put_some(shmc *t)
{
    for (uint32_t k = 0; k < 24; k++)
        put_number(t, 7 * k % 60, k);
}

static void test_writer_killed_at_any_step_costs_its_own_store(void)
{
    enum { KEYS = 3000 };
    shmc t;
    shmc_geometry g;
    CHECK(shmc_plan(MIB, 0, &g) == SHMC_OK);
    g.extent_bytes = 4096;      /* few records each: every step is met soon */
    make_with(&t, &g);
    int n = 0, died = 0;

    for (uint32_t k = 0; k < KEYS; k++)
        CHECK(put_number(&t, k, 0) == SHMC_OK);
    do {
        died = dies_at(n++, put_some, &t);
        check_books(&t, KEYS);
        for (uint32_t k = 0; k < 60; k++) {
            CHECK(put_number(&t, k, (uint32_t)n) == SHMC_OK);
            CHECK(get_number(&t, k) == SHMC_OK);
        }
    } while (died);
    CHECK(n > 100);             /* it died at that many different steps */
    CHECK(t.counters[SHMC_C_LOCKS_RECOVERED] == (uint64_t)n - 1);
    CHECK(t.counters[SHMC_C_SHARDS_WIPED] == 0);
}

static void put_one(shmc *t)
{
    put_number(t, 1, 1);
}

static void test_headers_that_contradict_are_wiped_and_only_then(void)
{
    shmc t;
    make(&t, MIB);
    uint64_t before = shmc_load(&t.shards[0].generations[3]);

    for (uint32_t k = 0; k < 50; k++)
        put_number(&t, k, 0);
    t.shards[0].opened = 0;     /* younger than its extents */
    for (int n = 0; n < 2; n++) /* killed with the lock, then recovering */
        CHECK(dies_at(n, put_one, &t));
    for (int n = 1; n < 3; n++) /* killed in the wipe */
        CHECK(dies_at(n, put_one, &t));
    CHECK(put_number(&t, 60, 0) == SHMC_OK);
    CHECK(t.counters[SHMC_C_SHARDS_WIPED] == 1);
    for (uint32_t k = 0; k < 50; k++)
        CHECK(get_number(&t, k) == SHMC_MISS);
    CHECK(get_number(&t, 60) == SHMC_OK);
    CHECK(shmc_load(&t.shards[0].generations[3]) > before);
    check_books(&t, 61);
}

/* ---- the lock */

static int told[2], heard[2];

/* Hold the lock until told otherwise. */
static void hold(const char *at)
{
    char c;

    if (strcmp(at, "put.locked"))
        return;
    CHECK(write(told[1], "x", 1) == 1);
    CHECK(read(heard[0], &c, 1) == 1);
}

static pid_t start_holder(shmc *t)
{
    char c;
    CHECK(!pipe(told) && !pipe(heard));
    pid_t child = fork();

    CHECK(child >= 0);
    if (!child) {
        shmc own;
        attach(&own, t->base, t->g.size);
        on_step = hold;
        put_number(&own, 1, 9);
        _exit(0);
    }
    CHECK(read(told[0], &c, 1) == 1);
    return child;
}

static int64_t clock_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static void test_stopped_holder_costs_two_milliseconds_once(void)
{
    shmc t;
    make(&t, MIB);
    uint32_t key = 1;
    int64_t start, end = 0;
    CHECK(put_number(&t, key, 0) == SHMC_OK);
    pid_t child = start_holder(&t);

    start = clock_ns();
    CHECK(put_number(&t, 2, 0) == SHMC_BUSY);
    CHECK(clock_ns() - start >= 2000000);
    CHECK(t.counters[SHMC_C_LOCK_TIMEOUTS] == 1);
    do {                        /* as long as it only tries, it does not wait */
        CHECK(put_number(&t, 2, 0) == SHMC_BUSY);
        end = clock_ns();
    } while (end < start + 50000000);
    CHECK(t.counters[SHMC_C_LOCK_TIMEOUTS] == 1);
    CHECK(get_number(&t, key) == SHMC_OK);      /* readers wait for nobody */
    uint64_t number = shmc_number(&t);
    CHECK(shmc_drop(&t, &key, 4, number, 0) == SHMC_BUSY);
    CHECK(get_number(&t, key) == SHMC_MISS);    /* by its floor */
    kill(child, SIGKILL);
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK(put_number(&t, key, 1) == SHMC_OK && get_number(&t, key) == SHMC_OK);
    CHECK(t.counters[SHMC_C_LOCKS_RECOVERED] == 1);
}

/* Die with the lock, and let the next owner give it back as it is: lost. */
static void test_shard_that_cannot_be_recovered_misses(void)
{
    shmc t;
    shmc_usage u;
    make(&t, MIB);

    put_number(&t, 1, 0);
    CHECK(dies_at(0, put_one, &t));
    CHECK(pthread_mutex_lock(&t.shards[0].lock) == EOWNERDEAD);
    pthread_mutex_unlock(&t.shards[0].lock);
    CHECK(put_number(&t, 2, 0) == SHMC_DISABLED);
    CHECK(get_number(&t, 1) == SHMC_MISS);
    CHECK(shmc_drop(&t, "x", 1, 1, 0) == SHMC_BUSY);
    shmc_measure(&t, &u);
    CHECK(u.disabled_shards == 1);
}

/* ---- claims */

static void with_slots(shmc *t)
{
    for (uint32_t i = 0; i < SHMC_SLOTS; i++)
        atomic_store(&t->slots[i].incarnation, 1);
}

static void claim_one(shmc *t)
{
    uint32_t index;
    uint64_t word, wake = 0;

    if (shmc_claim_take(t, 99, 1, &index, &word, &wake) == SHMC_OK)
        shmc_claim_free(t, index, word, SHMC_FREED_STORED, &wake);
}

/* A claim word by hand, as the process of that slot would have written it. */
static uint64_t claim_word(uint64_t hash20, uint32_t slot, uint32_t state)
{
    return hash20 << 44 | 7ull << 24 | 1ull << 12 | (uint64_t)slot << 3 | state;
}

static uint32_t rival_at;       /* entry where a rival appears ... */
static uint32_t rival_state;    /* ... in this state */

/* A rival that had found the set empty as well writes its word. */
static void rival(const char *at)
{
    if (strcmp(at, "claim.standing"))
        return;
    on_step = NULL;
    atomic_store(&shared->claims[rival_at].word, claim_word(3, 5, rival_state));
    atomic_store(&shared->claims[rival_at].waiters, 1ull << 40);
}

/* Take key 3, whose search for an entry begins at entry 3, against a rival. */
static int take_against(shmc *t, uint32_t at, uint32_t state, uint64_t *word,
                        uint64_t *wake)
{
    uint32_t index;

    make(t, MIB);
    with_slots(t);
    shared = t;
    rival_at = at;
    rival_state = state;
    on_step = rival;
    *wake = 0;
    return shmc_claim_take(t, 3ull << 44, 2, &index, word, wake);
}

static void test_rivals_settle_by_the_rules(void)
{
    shmc t;
    uint64_t word, wake;

    /* higher and tentative: voided, and who waited on it is to be woken */
    CHECK(take_against(&t, 6, SHMC_TENTATIVE, &word, &wake) == SHMC_OK);
    CHECK(shmc_claim_word(&t, 6) == claim_word(3, 5, SHMC_FREED));
    CHECK(wake == 1ull << 40 && shmc_claim_word(&t, 3) == word);
    /* held, or lower and tentative: we withdraw */
    for (uint32_t at = 1; at < 8; at += 5) {
        uint32_t state = at < 3 ? SHMC_TENTATIVE : SHMC_HELD;
        CHECK(take_against(&t, at, state, &word, &wake) == SHMC_HELD);
        CHECK(word == claim_word(3, 5, state) && wake == 0);
        CHECK((shmc_claim_word(&t, 3) & 7) == SHMC_FREED);
    }
}

/* Void the claim under the taker's feet, once. */
static void void_ours(const char *at)
{
    if (strcmp(at, "claim.look"))
        return;
    on_step = NULL;
    atomic_fetch_and(&shared->claims[3].word, ~7ull);
}

static void test_voided_taker_starts_over(void)
{
    shmc t;
    make(&t, MIB);
    with_slots(&t);
    uint32_t index;
    uint64_t word, wake = 0;

    shared = &t;
    on_step = void_ours;
    CHECK(shmc_claim_take(&t, 3ull << 44, 2, &index, &word, &wake) == SHMC_OK);
    CHECK(index == 3 && (word >> 24 & 0xfffff) == 2);   /* taken twice */
}

static void test_tentative_claim_taken_over_gives_way_to_the_held(void)
{
    shmc t;
    make(&t, MIB);
    with_slots(&t);
    uint64_t word, wake = 0, dead = claim_word(3, 5, SHMC_TENTATIVE);

    atomic_store(&t.claims[2].word, claim_word(3, 4, SHMC_HELD));
    atomic_store(&t.claims[5].word, dead);
    CHECK(shmc_claim_over(&t, 5, dead, 2, &word, &wake) == SHMC_LOST);
    CHECK((shmc_claim_word(&t, 5) & 7) == SHMC_FREED);
    atomic_store(&t.claims[2].word, 0);
    atomic_store(&t.claims[5].word, dead);
    CHECK(shmc_claim_over(&t, 5, dead, 2, &word, &wake) == SHMC_OK);
    CHECK((word & 7) == SHMC_HELD && shmc_claim_word(&t, 5) == word);
}

/* Whatever a killed taker leaves is free, or can be taken over by one call. */
static void test_taker_killed_at_any_step_leaves_a_claim_to_take(void)
{
    shmc t;
    make(&t, MIB);
    with_slots(&t);
    uint32_t index;
    uint64_t word, wake = 0;
    int n = 0, died;

    do {
        died = dies_at(n++, claim_one, &t);
        int rc = shmc_claim_take(&t, 99, 2, &index, &word, &wake);
        if (rc == SHMC_HELD) {
            CHECK((word >> 3 & 0x1ff) == 1);
            rc = shmc_claim_over(&t, index, word, 2, &word, &wake);
        }
        CHECK(rc == SHMC_OK);
        CHECK(shmc_claim_free(&t, index, word, SHMC_FREED, &wake) == SHMC_OK);
    } while (died);
    CHECK(n > 8);
}

/* Claim the key of the first set whose 20 bits are `hash20`. */
static int take(shmc *t, uint64_t hash20, uint32_t slot, uint32_t *index,
                uint64_t *word, uint64_t *wake)
{
    return shmc_claim_take(t, hash20 << 44, slot, index, word, wake);
}

static void test_full_set_takes_only_claims_of_slots_taken_anew(void)
{
    shmc t;
    make(&t, MIB);
    with_slots(&t);
    uint32_t index;
    uint64_t word, wake = 0, first = 0;

    for (uint64_t k = 0; k < SHMC_CLAIM_WAYS; k++) {
        CHECK(take(&t, k, (uint32_t)k, &index, &word, &wake) == SHMC_OK);
        first = k == 3 ? word : first;
    }
    CHECK(take(&t, 9, 9, &index, &word, &wake) == SHMC_FULL);
    CHECK(index == SHMC_NO_CLAIM && t.counters[SHMC_C_CLAIMS_FULL] == 1);
    CHECK(take(&t, 3, 9, &index, &word, &wake) == SHMC_HELD);
    CHECK(shmc_claim_wait(&t, index, word, 17) == SHMC_OK);
    atomic_fetch_add(&t.slots[3].incarnation, 1);
    CHECK(take(&t, 9, 9, &index, &word, &wake) == SHMC_OK);
    CHECK(wake == 1ull << 17);  /* who waited on the dead one's claim */
    CHECK(shmc_claim_free(&t, index, first, SHMC_FREED, &wake) == SHMC_LOST);
}

/* ---- corruption */

/* Random bits of index, extents and headers, but for the locks. Nothing is
 * promised but that no byte outside the segment is touched: ASan and the page
 * behind the segment would tell.
 */
static void test_flipped_bits_touch_nothing_outside(void)
{
    shmc t;
    make(&t, MIB);
    unsigned seed = 1;
    char value[MIB];

    on_step = NULL;
    for (int round = 0; round < 60000; round++) {
        uint32_t key = (uint32_t)rand_r(&seed) % 500;
        uint8_t *at = (uint8_t *)t.index;
        size_t span = (size_t)t.g.buckets * 64;
        shmc_found f;
        if (rand_r(&seed) % 3 == 0) {
            at = t.extents;
            span = (size_t)SHMC_EXTENTS * t.g.extent_bytes;
        } else if (rand_r(&seed) % 8 == 0) {
            at = (uint8_t *)&t.shards[0].opened;
            span = sizeof(shmc_shard) - offsetof(shmc_shard, opened);
        }
        at[(size_t)rand_r(&seed) % span] ^= (uint8_t)(1 << rand_r(&seed) % 8);
        if (round % 4 == 0)
            put_number(&t, key, (uint32_t)round);
        if (shmc_find(&t, &key, 4, shmc_hash(&t, &key, 4), 1, &f) == SHMC_OK)
            shmc_copy(&t, &f, value);
        if (round % 64 == 0)
            shmc_drop(&t, &key, 4, 0, 0);
    }
}

#define TEST(name) {#name, name}
static const struct { const char *name; void (*run)(void); } tests[] = {
    TEST(test_hash_matches_reference_vectors),
    TEST(test_plan_keeps_its_bounds),
    TEST(test_attach_refuses_what_contradicts_itself),
    TEST(test_sizes_at_their_limits_are_stored_whole),
    TEST(test_frequency_saturates_and_survives_replacement),
    TEST(test_full_buckets_lose_the_least_used_then_the_oldest),
    TEST(test_full_segment_evicts_oldest_first),
    TEST(test_emptying_counts_why_a_record_went),
    TEST(test_reader_that_slept_through_a_reuse_learns_it),
    TEST(test_reader_looks_at_the_slot_again_after_the_generation),
    TEST(test_record_that_moved_is_no_miss),
    TEST(test_writer_killed_at_any_step_costs_its_own_store),
    TEST(test_headers_that_contradict_are_wiped_and_only_then),
    TEST(test_stopped_holder_costs_two_milliseconds_once),
    TEST(test_shard_that_cannot_be_recovered_misses),
    TEST(test_rivals_settle_by_the_rules),
    TEST(test_voided_taker_starts_over),
    TEST(test_tentative_claim_taken_over_gives_way_to_the_held),
    TEST(test_taker_killed_at_any_step_leaves_a_claim_to_take),
    TEST(test_full_set_takes_only_claims_of_slots_taken_anew),
    TEST(test_flipped_bits_touch_nothing_outside),
};

int main(void)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        printf("%s\n", tests[i].name);
        fflush(stdout);
        tests[i].run();
        on_step = NULL;
    }
    return 0;
}
