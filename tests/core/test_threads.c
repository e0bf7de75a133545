/* test_threads.c: threads on one mapping, for TSan: it sees neither other
 * processes nor a second mapping of the same page. Each thread has an
 * attachment of its own.
 */
#include "harness.h"
#include "threads.h"

enum {
    THREADS = 4, ROUNDS = 25000, CLAIMED = 3,
    KEYS = 900, LONG_KEYS = 40  /* the first of them have chains */
};

static void *base;
static shmc_word holder[CLAIMED];       /* thread + 1 that has the claim */
static shmc_word held;

static void put_one(shmc *t, uint32_t key, uint32_t salt)
{
    put_number(t, key, key < LONG_KEYS ? SIZED | (1000 + salt % 6000)
               : salt & ~SIZED);
}

static void records(shmc *t, unsigned *seed)
{
    uint32_t key = (uint32_t)rand_r(seed) % KEYS;
    uint64_t hash = shmc_hash(t, &key, 4);
    shmc_usage u;

    switch (rand_r(seed) % 64) {
    case 0:
        shmc_drop(t, &key, 4, shmc_number(t), 0, 1);
        break;
    case 1:
        shmc_raise_key(t, hash, shmc_number(t), 1);
        break;
    case 2:
        shmc_raise_key(t, hash, shmc_number(t), 0);
        break;
    case 3:
        shmc_measure(t, 0, &u);
        break;
    default:
        if (rand_r(seed) % 4 == 0)
            put_one(t, key, (uint32_t)rand_r(seed));
        else
            get_number(t, key);
    }
}

/* The key's claim: whoever has it finds nobody else having it. */
static void claims(shmc *t, uint32_t me, unsigned *seed)
{
    uint32_t which = (uint32_t)rand_r(seed) % CLAIMED, index;
    uint64_t hash = (uint64_t)which << 44, word, wake = 0, stamp, token[2];
    int64_t deadline;
    int rc = shmc_claim_take(t, hash, me, &index, &word, &wake);

    if (rc == SHMC_HELD) {
        if (shmc_claim_noted(t, index, word, &stamp, &deadline, token)
            == SHMC_OK)
            CHECK(token[0] == token[1] && (uint64_t)deadline == token[0]);
        shmc_claim_wait(t, index, word, me);
        return;
    }
    CHECK(rc == SHMC_OK);
    CHECK(atomic_exchange(&holder[which], me + 1) == 0);
    for (uint64_t i = 1; i < 4; i++) {
        token[0] = token[1] = i * 1000 + me;
        CHECK(shmc_claim_note(t, index, word, i, (int64_t)token[0], token)
              == SHMC_OK);
    }
    CHECK(atomic_exchange(&holder[which], 0) == me + 1);
    CHECK(shmc_claim_free(t, index, word, SHMC_FREED_STORED, &wake) == SHMC_OK);
    atomic_fetch_add(&held, 1);
}

static void *run(void *arg)
{
    uint32_t me = (uint32_t)(uintptr_t)arg;
    unsigned seed = me + 1;
    shmc t;

    attach(&t, base, MIB);
    t.counters = t.slots[me].counters;
    t.hits = me;                /* not all sample their hits at once */
    for (int i = 0; i < ROUNDS; i++) {
        t.try_until[0] = 0;     /* wait each time: here all contend */
        records(&t, &seed);
        claims(&t, me, &seed);
    }
    return NULL;
}

static void test_threads_share_one_segment(void)
{
    pthread_t thread[THREADS];
    shmc t;
    uint64_t stores = 0, evicted = 0, retries = 0;

    make_small(&t);
    base = t.base;
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&thread[i], NULL, run, (void *)i));
    for (int i = 0; i < THREADS; i++) {
        CHECK(!pthread_join(thread[i], NULL));
        stores += t.slots[i].counters[SHMC_C_STORES];
        evicted += t.slots[i].counters[SHMC_C_EVICTED];
        retries += t.slots[i].counters[SHMC_C_RETRIES];
        CHECK(!t.slots[i].counters[SHMC_C_SHARDS_WIPED]);
    }
    CHECK(stores > THREADS * ROUNDS / 8 && evicted > 100 && held > ROUNDS);
    check_books(&t);
    printf(" (stores %lu, evicted %lu, retries %lu, claims held %lu)",
           (unsigned long)stores, (unsigned long)evicted,
           (unsigned long)retries, (unsigned long)held);
}

static const struct test tests[] = {
    TEST(test_threads_share_one_segment),
};

MAIN(tests)
