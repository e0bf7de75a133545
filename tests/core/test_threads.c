/* test_threads.c: threads on one mapping, for TSan: it sees neither other
 * processes nor a second mapping of the same page. Each thread has an
 * attachment of its own.
 */
#include "harness.h"

enum { THREADS = 4, ROUNDS = 30000, KEYS = 700, CLAIMED = 3 };

step_hook on_step;

#ifdef __SANITIZE_THREAD__
#include <sched.h>

/* TSan does not know this way of taking a lock; it knows trylock. */
int pthread_mutex_clocklock(pthread_mutex_t *lock, clockid_t clock,
                            const struct timespec *end)
{
    struct timespec now;
    int rc;

    while ((rc = pthread_mutex_trylock(lock)) == EBUSY) {
        clock_gettime(clock, &now);
        if (now.tv_sec > end->tv_sec
            || (now.tv_sec == end->tv_sec && now.tv_nsec >= end->tv_nsec))
            return ETIMEDOUT;
        sched_yield();
    }
    return rc;
}
#endif

static void *base;
static shmc_word holder[CLAIMED];       /* thread + 1 that has the claim */
static shmc_word held;

static void records(shmc *t, unsigned *seed)
{
    uint32_t key = (uint32_t)rand_r(seed) % KEYS;

    switch (rand_r(seed) % 8) {
    case 0:
    case 1:
        put_number(t, key, (uint32_t)rand_r(seed));
        break;
    case 2:
        shmc_drop(t, &key, 4, shmc_number(t), 0);
        break;
    case 3:
        shmc_raise(shmc_key_stripe(t, shmc_hash(t, &key, 4), 1),
                   shmc_number(t));
        break;
    default:
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
    for (int i = 0; i < ROUNDS; i++) {
        records(&t, &seed);
        claims(&t, me, &seed);
    }
    return NULL;
}

int main(void)
{
    pthread_t thread[THREADS];
    shmc t;
    uint64_t stores = 0, evicted = 0;

    base = make(&t, MIB);
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&thread[i], NULL, run, (void *)i));
    for (int i = 0; i < THREADS; i++) {
        CHECK(!pthread_join(thread[i], NULL));
        stores += t.slots[i].counters[SHMC_C_STORES];
        evicted += t.slots[i].counters[SHMC_C_EVICTED];
        CHECK(!t.slots[i].counters[SHMC_C_SHARDS_WIPED]);
    }
    CHECK(stores > THREADS * ROUNDS / 8 && evicted > 100 && held > ROUNDS);
    printf("stores %lu evicted %lu claims held %lu\n", (unsigned long)stores,
           (unsigned long)evicted, (unsigned long)held);
    return 0;
}
