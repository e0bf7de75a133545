/* entries.h: what the tests of the outbox share: a small ring, entries whose
 * names tell whose they are.
 */
#ifndef SHMC_ENTRIES_H
#define SHMC_ENTRIES_H

#include "harness.h"

#define RING_BYTES 4096u

/* A segment whose ring is full after some thirty entries. */
static inline void make_ring(shmc *t)
{
    shmc_geometry g;

    CHECK(shmc_plan(MIB, 0, 0, &g) == SHMC_OK);
    g.outbox_bytes = RING_BYTES;
    make_with(t, &g);
}

/* The name of an entry: its number in the test, over and over, in a length that
 * follows from it; its highest bits are set, as those that begin an entry.
 */
static inline uint32_t name_of(uint32_t i, uint8_t *out)
{
    uint32_t len = i ? 4 + i * 7919 % 90 : 0;

    for (uint32_t n = 0; n < len; n++)
        out[n] = (uint8_t)(0x80 | i >> n % 4 * 7);
    return len;
}

/* Add an entry, waiting for the lock. Its number, or 0. */
static inline uint64_t add_entry(shmc *t, uint32_t i, int64_t at)
{
    uint8_t name[SHMC_NAME_MAX];
    uint32_t len = name_of(i, name);
    uint64_t number = 0;
    int rc = shmc_outbox_add(t, (uint8_t)(1 + i % 9), name, len, at, 1, &number);

    CHECK(rc == SHMC_OK ? number > 0 : rc == SHMC_FULL && !number);
    return number;
}

/* Which entry of the test this is; it is whole. */
static inline uint32_t whose(const shmc_entry *e, const uint8_t *name)
{
    uint8_t want[SHMC_NAME_MAX];
    uint32_t i = 0;

    for (uint32_t n = 0; n < 4 && n < e->len; n++)
        i |= (uint32_t)(name[n] & 0x7f) << 7 * n;
    CHECK(e->len == name_of(i, want) && !memcmp(name, want, e->len));
    CHECK(e->kind == 1 + i % 9);
    return i;
}

/* Read all that is unsent: in order, whole, none below `lowest`. How many. */
static inline uint32_t read_unsent(const shmc *t, uint32_t *out, uint32_t room)
{
    uint8_t name[SHMC_NAME_ROOM];
    uint64_t position = 0, number = 0, clock = 0;
    uint32_t n = 0;
    shmc_entry e;

    while (shmc_outbox_next(t, &position, &e, name) == SHMC_OK) {
        CHECK(n < room && e.number > number && e.clock >= clock && !e.sent);
        CHECK(shmc_outbox_lowest(t) <= e.clock);
        number = e.number;
        clock = e.clock;
        out[n++] = whose(&e, name);
    }
    return n;
}

#endif
