/* test_flips.c: random bits flip in a live segment, anywhere but in the locks.
 *
 * Nothing is promised of what is found then, but that nobody crashes or hangs,
 * touches a byte outside (ASan and the pages around the segment would tell), or
 * is given one key's value for another's.
 */
#include "harness.h"

enum { KEYS = 300, LONG_KEYS = 20 };    /* the first of them have chains */

/* What all processes of a round share. */
struct round {
    _Atomic uint64_t calls;     /* made so far, by all */
    _Atomic uint64_t hits, damaged, foreign;
    _Atomic uint32_t done;      /* processes */
};
static struct round *round_;

static uint32_t salt_of(uint32_t key, unsigned *seed)
{
    uint32_t salt = (uint32_t)rand_r(seed) & 0xffff;

    return key < LONG_KEYS ? SIZED | (4000 + salt % 24000) : salt;
}

/* Look at a value that may be damaged: it says whose it is in each eight bytes.
 */
static void judge(uint32_t key, const char *value, uint32_t len)
{
    uint32_t said[2];

    if (len < 8) {
        atomic_fetch_add(&round_->damaged, 1);
        return;
    }
    memcpy(said, value, 8);
    char *want = room_for_value(1);
    if (length_of(said[0], said[1]) > MIB
        || value_of(said[0], said[1], want) != len || memcmp(value, want, len))
        atomic_fetch_add(&round_->damaged, 1);
    else if (said[0] != key)
        atomic_fetch_add(&round_->foreign, 1);
    else
        atomic_fetch_add(&round_->hits, 1);
}

static void read_one(shmc *t, uint32_t key)
{
    shmc_found f;

    if (find_number(t, key, &f) != SHMC_OK)
        return;
    CHECK(f.length <= shmc_value_max(t));
    char *value = malloc(f.length + 1);
    CHECK(value);
    if (shmc_copy(t, &f, value) == SHMC_OK) {
        judge(key, value, f.length);
        shmc_touch(t, &f);
    }
    free(value);
}

/* A tool that looks at the segment finds faults, and must not mind. */
static void check_quietly(shmc *t)
{
    uint64_t *starts = calloc(shmc_check_words(t), 8);
    shmc_report r;

    CHECK(starts);
    shmc_check(t, 0, starts, &r);
    free(starts);
}

/* Add to the outbox, read it all, send some of it. */
static void use_outbox(shmc *t, unsigned *seed)
{
    uint8_t name[SHMC_NAME_ROOM] = {0};
    uint64_t number = (uint64_t)rand_r(seed) % 40000, position = 0;
    shmc_outbox_report r;
    shmc_entry e;

    shmc_outbox_add(t, 1, name, (uint32_t)rand_r(seed) % SHMC_NAME_MAX, 1, 1,
                    &number);
    while (shmc_outbox_next(t, &position, &e, name) == SHMC_OK) {
        CHECK(e.len <= SHMC_NAME_MAX);
        if (rand_r(seed) % 4)
            shmc_outbox_sent(t, e.number);
    }
    shmc_outbox_sent(t, number);
    shmc_outbox_overflowed(t, shmc_outbox_overflow(t));
    shmc_check_outbox(t, &r);
}

/* One call, of any kind. */
static void do_something(shmc *t, unsigned *seed)
{
    uint32_t key = (uint32_t)rand_r(seed) % KEYS, index;
    uint64_t hash = shmc_hash(t, &key, 4), word, wake = 0;
    shmc other;

    switch (rand_r(seed) % 64) {
    case 0:
        shmc_drop(t, &key, 4, shmc_number(t), 0, 1);
        break;
    case 1:
        shmc_raise_key(t, hash, shmc_clock(t), 1);
        break;
    case 2:
        if (shmc_claim_take(t, hash, 1, &index, &word, &wake) == SHMC_OK)
            shmc_claim_free(t, index, word, SHMC_FREED_STORED, &wake);
        break;
    case 3:                     /* it may be refused by now */
        shmc_attach(&other, t->base, t->g.size, 0);
        break;
    case 4:
        if (rand_r(seed) % 16 == 0)
            check_quietly(t);
        break;
    case 5:
        use_outbox(t, seed);
        break;
    case 6: case 7: case 8: case 9: case 10: case 11: case 12:
        put_number(t, key, salt_of(key, seed));
        break;
    default:
        read_one(t, key);
    }
}

static void flip(shmc *t, uint8_t *from, size_t span, unsigned *seed)
{
    uint8_t *at;
    size_t i, shard = (size_t)((uint8_t *)t->shards - t->base);
    size_t outbox = (size_t)((uint8_t *)t->outbox - t->base);

    do {
        at = from + (size_t)rand_r(seed) % span;
        i = (size_t)(at - t->base);
    } while ((i >= shard && i - shard < t->g.shards * sizeof(shmc_shard)
              && (i - shard) % sizeof(shmc_shard) < sizeof(pthread_mutex_t))
             || (i >= outbox && i - outbox < sizeof(pthread_mutex_t)));
    __atomic_fetch_xor(at, (uint8_t)(1 << rand_r(seed) % 8), __ATOMIC_RELAXED);
}

/* Flip a bit of the index, the shards' headers, the outbox, the log or anything;
 * of what stands before the shards only where `early`: there, one bit can hide
 * every record for good.
 */
static void flip_somewhere(shmc *t, int early, unsigned *seed)
{
    uint8_t *shards = (uint8_t *)t->shards;
    size_t log = (size_t)t->g.shards * SHMC_EXTENTS * t->g.extent_bytes;

    switch (rand_r(seed) % 6) {
    case 0:
        flip(t, (uint8_t *)t->index, (size_t)t->g.shards * t->g.buckets * 64,
             seed);
        break;
    case 1:
        flip(t, shards, t->g.shards * sizeof(shmc_shard), seed);
        break;
    case 2:
        flip(t, (uint8_t *)t->outbox, rand_r(seed) % 2 ? sizeof *t->outbox
             : t->g.outbox_bytes, seed);
        break;
    case 3:
    case 4:
        flip(t, t->extents, log, seed);
        break;
    default:
        if (early)
            flip(t, t->base, t->g.size, seed);
        else
            flip(t, shards, (size_t)(t->base + t->g.size - shards), seed);
    }
}

/* ---- alone: each flip stands before the next call */

static void test_flipped_bits_touch_nothing_outside(void)
{
    unsigned seed = 1;
    uint64_t damaged = 0;

    for (int n = 0; n < 40; n++) {
        shmc t;
        make(&t, MIB);
        memset(round_, 0, sizeof *round_);
        for (int i = 0; i < 2500; i++) {
            if (i > 300)
                flip_somewhere(&t, n % 4 == 0, &seed);
            do_something(&t, &seed);
        }
        CHECK(!round_->foreign);
        damaged += round_->damaged;
        unmake(&t);
    }
    CHECK(damaged > 100);       /* the test sees what is flipped */
}

/* ---- under load: bits flip within the calls of others */

enum { WORKERS = 3, CALLS_OF_ROUND = 50000, ROUNDS = 6 };

static unsigned worker_seed;

static pid_t start_worker(shmc *t, uint32_t slot)
{
    pid_t child = fork_child();
    unsigned seed = ++worker_seed;
    shmc own;

    if (child)
        return child;
    alarm(30);                  /* who hangs is killed, and seen */
    attach_as(&own, t, slot);
    while (atomic_fetch_add(&round_->calls, 1) < CALLS_OF_ROUND)
        do_something(&own, &seed);
    atomic_fetch_add(&round_->done, 1);
    _exit(0);
}

static void flip_under_load(int n, unsigned *seed, uint64_t sums[2])
{
    shmc t;
    pid_t child[WORKERS];
    int status;
    make(&t, MIB);
    memset(round_, 0, sizeof *round_);

    for (uint32_t i = 0; i < WORKERS; i++)
        child[i] = start_worker(&t, i);
    while (atomic_load(&round_->done) < WORKERS) {
        uint64_t calls = atomic_load(&round_->calls);
        if (calls > 2000)
            for (int i = 0; i < 8; i++)
                flip_somewhere(&t, n % 4 == 0, seed);
        for (int i = 0; atomic_load(&round_->calls) < calls + 32 && i < 10000
             && atomic_load(&round_->done) < WORKERS; i++)
            if (waitpid(-1, &status, WNOHANG | WNOWAIT) > 0)
                break;
    }
    for (int i = 0; i < WORKERS; i++) {
        CHECK(waitpid(child[i], &status, 0) == child[i]);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    CHECK(!round_->foreign);
    sums[0] += round_->hits;
    sums[1] += round_->damaged;
    unmake(&t);
}

static void test_bits_flipped_under_load_harm_nobody(void)
{
    unsigned seed = 2;
    uint64_t sums[2] = {0, 0};

    for (int n = 0; n < ROUNDS; n++)
        flip_under_load(n, &seed, sums);
    printf(" (hits %lu, damaged %lu)", (unsigned long)sums[0],
           (unsigned long)sums[1]);
    CHECK(sums[0] > 10000 && sums[1] > 1000);
}

static const struct test tests[] = {
    TEST(test_flipped_bits_touch_nothing_outside),
    TEST(test_bits_flipped_under_load_harm_nobody),
};

int main(int argc, char **argv)
{
    round_ = map_segment(SHMC_PAGE);
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
