/* store.c: how long a store takes, in C: the core alone, one process, a full
 * table. Prints one JSON object a line:
 *   {"name": ..., "puts": n, "mean": ns, "p50": ns, "p99": ns, "p999": ns,
 *    "max": ns, "clock": ns}
 *
 * usage: store MIB PUTS
 *
 * fresh    keys that never stood: each store puts out another record
 * mixed    three of ten rewrite a recent key, and before every other one a
 *          recent key is hit: about half of all records survive and are moved
 *
 * "clock" is what a reading of the clock costs; it is in the figures.
 */
#define _GNU_SOURCE
#include "inner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define VALUE 300
#define RECENT 20000u

typedef struct name {
    char bytes[24];
    uint32_t len;
} name;

static shmc table;
static char value[VALUE];
static uint64_t chance = 88172645463325252ull;

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A number by xorshift: the same in every run. */
static uint64_t any(void)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return chance;
}

static void make(size_t size)
{
    static const uint64_t seed[2] = {3, 5};
    shmc_identity id = {.uid = 1};
    shmc_geometry g;
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (base == MAP_FAILED || shmc_plan(size, VALUE, 0, &g) != SHMC_OK
        || shmc_init(base, &g, &id, seed) != SHMC_OK
        || shmc_attach(&table, base, size, 0) != SHMC_OK) {
        fprintf(stderr, "store: no segment of %zu bytes\n", size);
        exit(2);
    }
}

/* The key of a number, made before the clock is read: who stores has it. */
static name name_of(uint64_t number)
{
    name key;

    key.len = (uint32_t)snprintf(key.bytes, sizeof key.bytes, "price:%012llu",
                                 (unsigned long long)number);
    return key;
}

/* Store a record; the time is an argument of the core. */
static void put(const name *key, int64_t at)
{
    uint64_t stamp;
    shmc_store s = {.key = key->bytes, .key_len = key->len, .value = value,
        .value_len = VALUE, .birth = at, .fresh_until = SHMC_FOREVER,
        .dead_at = SHMC_FOREVER, .claim = SHMC_NO_CLAIM, .wait = 1};

    if (shmc_put(&table, &s, at, &stamp) != SHMC_OK) {
        fprintf(stderr, "store: refused\n");
        exit(2);
    }
}

/* Hit a record, if it stands. */
static void hit(const name *key)
{
    char to[VALUE];
    uint64_t hash = shmc_hash(&table, key->bytes, key->len);
    shmc_found f;

    if (shmc_find(&table, key->bytes, key->len, hash, 1, &f) == SHMC_OK
        && f.length == VALUE
        && shmc_copy(&table, &f, to) == SHMC_OK)
        shmc_touch(&table, &f);
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static void tell(const char *name, uint32_t *took, size_t n)
{
    double sum = 0;
    uint64_t begun = now_ns();

    for (int i = 0; i < 1000; i++)
        now_ns();
    double clock = (double)(now_ns() - begun) / 1001;
    for (size_t i = 0; i < n; i++)
        sum += took[i];
    qsort(took, n, sizeof *took, ascending);
    printf("{\"name\": \"%s\", \"puts\": %zu, \"mean\": %.1f, \"p50\": %u, "
           "\"p99\": %u, \"p999\": %u, \"max\": %u, \"clock\": %.1f}\n",
           name, n, sum / (double)n, took[n / 2], took[n / 100 * 99],
           took[n / 1000 * 999], took[n - 1], clock);
}

/* Store a record of that key, and how long it took. */
static uint32_t timed(const name *key, int64_t at)
{
    uint64_t begun = now_ns();

    put(key, at);
    return (uint32_t)(now_ns() - begun);
}

int main(int argc, char **argv)
{
    size_t mib = argc > 1 ? strtoul(argv[1], NULL, 10) : 64;
    size_t puts = argc > 2 ? strtoul(argv[2], NULL, 10) : 1000000;
    uint32_t *took = malloc(puts * sizeof *took);
    uint64_t number = 0, fill = mib * (1u << 20) / VALUE * 2;
    int64_t at = 1;
    name key;

    if (!took || puts < 1000 || !mib)
        return 2;
    memset(value, 'x', sizeof value);
    make(mib << 20);
    while (number < fill) {
        key = name_of(number++);
        put(&key, at++);
    }
    for (size_t i = 0; i < puts; i++) {
        key = name_of(number++);
        took[i] = timed(&key, at++);
    }
    tell("fresh", took, puts);
    for (size_t i = 0; i < puts; i++) {
        if (i & 1) {
            key = name_of(number - 1 - any() % RECENT);
            hit(&key);
        }
        key = name_of(any() % 10 < 3 ? number - 1 - any() % RECENT : number++);
        took[i] = timed(&key, at++);
    }
    tell("mixed", took, puts);
    return 0;
}
