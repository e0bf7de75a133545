/* test_outbox_threads.c: many add, send, read and make up for what was lost, each
 * with an attachment of its own; and all that was added is sent or marked.
 */
#include "entries.h"
#include "threads.h"

enum { ADDERS = 3, SENDERS = 2, EACH = 2000, ROOM = 256 };

static shmc_geometry geometry;
static void *base;
static _Atomic uint8_t added[ADDERS * EACH], sent[ADDERS * EACH];
static _Atomic uint32_t adding, lost, cleared;
static _Atomic uint64_t marks;  /* losses that a mark taken back stood for */

static void attach_own(shmc *t)
{
    attach(t, base, geometry.size);
}

/* Half of them hear from Redis themselves, the others leave it to the senders. */
static void *add(void *arg)
{
    uint32_t from = *(uint32_t *)arg;
    shmc t;

    attach_own(&t);
    for (uint32_t i = from; i < from + EACH; i++) {
        uint64_t number = add_entry(&t, i, i), clock = shmc_number(&t);
        CHECK(!number || shmc_outbox_lowest(&t) < clock
              || atomic_load(&sent[i]));        /* in this order */
        added[i] = number != 0;
        lost += !number;
        if (number && i % 2) {
            sent[i] = 1;
            shmc_outbox_sent(&t, number);
        }
        while (!number && shmc_outbox_overflow(&t))
            sched_yield();
    }
    adding--;
    return NULL;
}

/* Send all that is unsent, in order; make up for what is lost. */
static void *send_all(void *arg)
{
    uint8_t name[SHMC_NAME_ROOM];
    uint64_t position = 0, number = 0, mark;
    shmc_entry e;
    shmc t;

    (void)arg;
    attach_own(&t);
    do {
        shmc_outbox_tidy(&t);
        if (shmc_outbox_next(&t, &position, &e, name) == SHMC_OK) {
            CHECK(e.number > number);
            sent[whose(&e, name)] = 1;
            shmc_outbox_sent(&t, e.number);
            number = e.number;
            continue;
        }
        position = number = 0;
        mark = shmc_outbox_overflow(&t);
        if (shmc_outbox_overflowed(&t, mark)) {
            marks += mark & 0xffff;
            cleared++;
        }
    } while (adding || shmc_outbox_lowest(&t) != UINT64_MAX);
    return NULL;
}

static void *check_on(void *arg)
{
    uint8_t name[SHMC_NAME_ROOM];
    shmc_entry e;
    shmc t;

    (void)arg;
    attach_own(&t);
    while (adding) {
        uint64_t position = 0, clock = 0;
        check_outbox(&t);
        while (shmc_outbox_next(&t, &position, &e, name) == SHMC_OK) {
            whose(&e, name);
            CHECK(e.clock >= clock);
            clock = e.clock;
        }
    }
    return NULL;
}

static void test_all_that_is_added_is_sent_or_marked(void)
{
    pthread_t threads[ADDERS + SENDERS + 1];
    uint32_t from[ADDERS], n = 0, kept = 0;
    shmc t;

    make_ring(&t);
    geometry = t.g;
    base = t.base;
    adding = ADDERS;
    for (uint32_t i = 0; i < ADDERS; i++) {
        from[i] = i * EACH;
        CHECK(!pthread_create(&threads[n++], NULL, add, &from[i]));
    }
    for (int i = 0; i < SENDERS; i++)
        CHECK(!pthread_create(&threads[n++], NULL, send_all, NULL));
    CHECK(!pthread_create(&threads[n++], NULL, check_on, NULL));
    while (n)
        CHECK(!pthread_join(threads[--n], NULL));
    for (uint32_t i = 0; i < ADDERS * EACH; i++) {
        CHECK(sent[i] == added[i]);
        kept += added[i];
    }
    CHECK(kept + lost == ADDERS * EACH && kept > EACH && lost);
    CHECK(!shmc_outbox_overflow(&t) && marks == lost);
    CHECK(shmc_outbox_lowest(&t) == UINT64_MAX);
    CHECK(!check_outbox(&t).entries);
    printf(" (lost %u, made up for %u times)", (unsigned)lost,
           (unsigned)cleared);
    unmake(&t);
}

static const struct test tests[] = {
    TEST(test_all_that_is_added_is_sent_or_marked),
};

MAIN(tests)
