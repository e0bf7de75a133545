/* harness.h: what the C tests share: a segment in shared memory, records that
 * name themselves, and a hook at the core's steps.
 */
#ifndef SHMC_HARNESS_H
#define SHMC_HARNESS_H

#define _GNU_SOURCE
#include "inner.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB (1u << 20)
#define CHECK(what) do { if (!(what)) { \
    fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
    abort(); } } while (0)

typedef void (*step_hook)(const char *at);
extern step_hook on_step;       /* called at each step of the core, or NULL */

/* The segment under test: mapped shared, with unreadable pages behind it. */
static inline void *map_segment(size_t size)
{
    char *p = mmap(NULL, size + SHMC_PAGE, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    CHECK(!mprotect(p + size, SHMC_PAGE, PROT_NONE));
    return p;
}

static inline void attach(shmc *t, void *base, size_t size)
{
    CHECK(shmc_attach(t, base, size, 0) == SHMC_OK);
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

    CHECK(shmc_plan(size, 0, &g) == SHMC_OK);
    return make_with(t, &g);
}

/* A record's value: its key, repeated, so that a foreign or torn one shows. */
static inline uint32_t value_of(uint32_t key, uint32_t salt, char *out)
{
    uint32_t len = 8 + (key * 2654435761u + salt * 40503u) % 900;

    for (uint32_t i = 0; i + 8 <= len; i += 8) {
        memcpy(out + i, &key, 4);
        memcpy(out + i + 4, &salt, 4);
    }
    memset(out + (len & ~7u), (int)(key + salt) & 0xff, len & 7);
    return len;
}

static inline int put_number(shmc *t, uint32_t key, uint32_t salt)
{
    char value[1024];
    uint64_t stamp;
    shmc_store s = {.key = &key, .key_len = 4, .value = value,
        .value_len = value_of(key, salt, value), .birth = 1,
        .fresh_until = SHMC_FOREVER, .dead_at = SHMC_FOREVER,
        .stamp = shmc_clock(t), .claim = SHMC_NO_CLAIM};

    return shmc_put(t, &s, 1, &stamp);
}

/* Read a number's record and check it against itself. SHMC_OK or SHMC_MISS. */
static inline int get_number(shmc *t, uint32_t key)
{
    char value[1024], want[1024];
    shmc_found f;
    uint32_t salt = 0;

    for (int i = 0; i < 8; i++) {
        if (shmc_find(t, &key, 4, shmc_hash(t, &key, 4), 1, &f) != SHMC_OK)
            return SHMC_MISS;
        CHECK(f.head.value_len <= sizeof value);
        if (shmc_copy(t, &f, value) != SHMC_OK)
            continue;
        CHECK(f.head.value_len >= 8);
        memcpy(&salt, value + 4, 4);
        CHECK(f.head.value_len == value_of(key, salt, want));
        CHECK(!memcmp(value, want, f.head.value_len));
        shmc_touch(t, &f);
        return SHMC_OK;
    }
    return SHMC_MISS;
}

#endif
